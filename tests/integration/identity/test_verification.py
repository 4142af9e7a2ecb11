"""Verified e-mail addresses: how they come to be, what waits for them, and who loses what when they are proved."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.infra.http.app import CSRF_HEADER
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import (
    FIRST_KEY,
    OPERATOR_KEY,
    PASSWORD,
    Cloud,
    Tenant,
    build,
    mailed_token,
    make_key,
    register,
)

pytestmark = pytest.mark.anyio

VERIFY = "/verify-email#token="
RESET = "/password-reset#token="


@pytest.fixture
async def strict(database: Database, clock: ManualClock, anyio_backend: str) -> AsyncIterator[Cloud]:
    """A cloud that wants verified addresses."""
    built = build(database, clock, require_verified_email=True)
    yield built
    await built.close()


async def test_registration_mails_a_link_that_verifies_once(cloud: Cloud, ada: Tenant) -> None:
    assert not await is_verified(ada)
    token = await mailed_token(cloud, VERIFY)
    assert (await ada.client.post("/auth/verify-email", json={"token": token})).status_code == 204
    assert await is_verified(ada)
    assert (await ada.client.post("/auth/verify-email", json={"token": token})).status_code == 204
    async with cloud.database.transaction() as session:
        kept = "".join((await session.execute(text("select e::text from email_verifications e"))).scalars())
    assert token not in kept


async def test_link_alone_verifies_nothing(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    """Whoever gets a stranger's mail does not make the stranger's account a trusted one by opening its link."""
    await cloud.jobs.run_waiting()
    mail = next(mail for mail in cloud.mailer.sent if mail.to == ada.email)
    body = {"token": mail.body.partition(VERIFY)[2].split()[0]}
    assert (await cloud.client().post("/auth/verify-email", json=body)).status_code == 401
    assert (await bob.client.post("/auth/verify-email", json=body)).status_code == 400
    assert not await is_verified(bob)
    key = (await make_key(ada, scopes=["management"]))["key"]
    assert (await cloud.client(key).post("/auth/verify-email", json=body)).status_code == 403
    assert (await ada.client.post("/auth/verify-email", json=body)).status_code == 204


async def test_link_expires_and_the_newest_counts(cloud: Cloud, ada: Tenant, clock: ManualClock) -> None:
    first = await mailed_token(cloud, VERIFY)
    assert (await ada.client.post("/auth/verify-email/resend")).status_code == 202
    second = await mailed_token(cloud, VERIFY)
    assert (await ada.client.post("/auth/verify-email", json={"token": first})).status_code == 400
    clock.advance(24 * 3600)
    assert (await ada.client.post("/auth/verify-email", json={"token": second})).status_code == 400


async def test_resending_is_limited_and_ends_with_verification(cloud: Cloud, ada: Tenant) -> None:
    token = await mailed_token(cloud, VERIFY)
    await ada.client.post("/auth/verify-email", json={"token": token})
    statuses = [(await ada.client.post("/auth/verify-email/resend")).status_code for _ in range(11)]
    assert statuses == [202] * 10 + [429]
    await cloud.jobs.run_waiting()
    assert len(cloud.mailer.sent) == 1


async def test_invited_account_gets_its_link_too(cloud: Cloud, ada: Tenant) -> None:
    path = f"/organizations/{ada.organization_id}/invitations"
    invited = await ada.client.post(path, json={"role": "viewer"})
    account = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    body = {"token": invited.json()["link"].partition("token=")[2], "account": account}
    assert (await cloud.client().post("/invitations/accept", json=body)).status_code == 201
    await cloud.jobs.run_waiting()
    assert sorted(mail.to for mail in cloud.mailer.sent) == ["ada@example.com", "new@example.com"]


async def test_unverified_person_signs_in_and_makes_nothing(strict: Cloud) -> None:
    ada = await register(strict, "ada")
    login = await strict.client().post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    assert login.status_code == 200
    attempts = {
        "/keys": {"project_id": ada.project_id, "name": "k"},
        "/organizations": {"name": "o"},
        f"/organizations/{ada.organization_id}/invitations": {"role": "owner"},
    }
    for path, body in attempts.items():
        refused = await ada.client.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "email_not_verified"), path
    token = await mailed_token(strict, VERIFY)
    assert (await ada.client.post("/auth/verify-email", json={"token": token})).status_code == 204
    for path, body in attempts.items():
        assert (await ada.client.post(path, json=body)).status_code == 201, path


async def test_seeded_keys_of_a_strict_cloud_work(strict: Cloud) -> None:
    await strict.seed()
    project_id = (await strict.client(FIRST_KEY).get("/projects")).json()["data"][0]["id"]
    for key in (FIRST_KEY, OPERATOR_KEY):
        made = await strict.client(key).post("/keys", json={"project_id": project_id, "name": "k"})
        assert made.status_code == 201, made.text


async def test_password_reset_takes_the_account_from_a_squatter(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    squatters = [await make_key(ada, scopes=scopes) for scopes in (["management"], ["inference", "management"])]
    inference = await make_key(ada)
    bobs = await make_key(bob, scopes=["management"])
    invited = await ada.client.post(f"/organizations/{ada.organization_id}/invitations", json={"role": "owner"})
    await reset(cloud, ada.email)
    assert (await ada.client.get("/me")).status_code == 401
    for key in squatters:
        assert (await cloud.client(key["key"]).get("/me")).status_code == 401
    assert set(await cloud.documents("key")) == {inference["id"], bobs["id"]}
    assert (await cloud.client(bobs["key"]).get("/me")).status_code == 200
    accepted = {"token": invited.json()["link"].partition("token=")[2]}
    assert (await bob.client.post("/invitations/accept", json=accepted)).status_code == 404
    login = await ada.client.post("/auth/login", json={"email": ada.email, "password": NEW_PASSWORD})
    ada.client.headers[CSRF_HEADER] = login.json()["csrf_token"]
    assert await is_verified(ada)


async def test_password_reset_of_a_verified_person_leaves_their_keys(cloud: Cloud, ada: Tenant) -> None:
    token = await mailed_token(cloud, VERIFY)
    key = await make_key(ada, scopes=["management"])
    assert (await ada.client.post("/auth/verify-email", json={"token": token})).status_code == 204
    await reset(cloud, ada.email)
    assert (await cloud.client(key["key"]).get("/me")).status_code == 200


async def test_seeding_again_verifies_an_older_clouds_operator(cloud: Cloud) -> None:
    await cloud.seed()
    async with cloud.database.transaction() as session:
        await session.execute(text("update users set email_verified_at = null"))
    await cloud.seed()
    await reset(cloud, "operator@example.com")
    assert (await cloud.client(OPERATOR_KEY).get("/me")).status_code == 200


NEW_PASSWORD = "four quite unrelated words"


async def reset(cloud: Cloud, email: str) -> None:
    """A password reset by who reads the mails of `email`."""
    assert (await cloud.client().post("/auth/password-reset", json={"email": email})).status_code == 202
    body = {"token": await mailed_token(cloud, RESET), "new_password": NEW_PASSWORD}
    assert (await cloud.client().post("/auth/password-reset/confirm", json=body)).status_code == 204


async def is_verified(tenant: Tenant) -> bool:
    me = (await tenant.client.get("/me")).json()
    return me["user"]["email_verified_at"] is not None
