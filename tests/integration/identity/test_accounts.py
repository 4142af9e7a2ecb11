"""Registration, sign-in, sessions with CSRF protection, password change and reset."""

import pytest
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.infra.http.app import CSRF_HEADER
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import PASSWORD, Cloud, Tenant, build, mailed_token, make_key, register

pytestmark = pytest.mark.anyio

BAD_REGISTRATIONS: list[dict[str, object]] = [
    {"email": "no address"},
    {"email": "a@b\r\nBcc: c@d"},
    {"password": "short"},
    {"password": "x" * 300},
    {"password": "aaaaaaaaaaaa"},
    {"name": ""},
    {"name": "nul\x00"},
    {"name": "x" * 101},
    {"is_operator": True},
]

ANOTHER = "four quite unrelated words"


async def test_registration_founds_an_organization_with_its_credit_hook(cloud: Cloud, ada: Tenant) -> None:
    assert cloud.created.calls == [(ada.organization_id, "USD")]
    assert list(await cloud.documents("organization")) == [ada.organization_id]
    document = (await cloud.documents("project"))[ada.project_id]
    assert document["organization_id"] == ada.organization_id
    me = (await ada.client.get("/me")).json()
    assert me["user"]["email"] == "ada@example.com"
    assert me["memberships"] == [{"organization_id": ada.organization_id, "role": "owner", "project_id": None}]


async def test_address_is_taken_in_any_case(cloud: Cloud, ada: Tenant) -> None:
    body = {"email": "ADA@Example.com", "password": PASSWORD, "name": "x"}
    answer = await cloud.client().post("/auth/register", json=body)
    assert answer.status_code == 409
    assert answer.json()["code"] == "email_taken"
    assert len(cloud.created.calls) == 1


async def test_bad_registration_is_refused(cloud: Cloud) -> None:
    for change in BAD_REGISTRATIONS:
        body = {"email": "eve@example.com", "password": PASSWORD, "name": "Eve"} | change
        assert (await cloud.client().post("/auth/register", json=body)).status_code in (400, 422), change


@pytest.mark.parametrize("mode", ["invitation", "closed"])
async def test_registration_can_be_shut(database: Database, clock: ManualClock, mode: str) -> None:
    cloud = build(database, clock, registration=mode)
    body = {"email": "eve@example.com", "password": PASSWORD, "name": "Eve"}
    answer = await cloud.client().post("/auth/register", json=body)
    assert answer.status_code == 403
    await cloud.close()


async def test_login_gives_guarded_cookies(database: Database, clock: ManualClock) -> None:
    cloud = build(database, clock, secure_cookies=True)
    await register_only(cloud, "ada")
    answer = await cloud.client().post("/auth/login", json={"email": "Ada@example.com", "password": PASSWORD})
    assert answer.status_code == 200
    session_cookie, csrf_cookie = answer.headers.get_list("set-cookie")
    for mark in ("HttpOnly", "SameSite=lax", "Secure", "Path=/"):
        assert mark in session_cookie
    assert "HttpOnly" not in csrf_cookie
    assert answer.json()["csrf_token"] in csrf_cookie
    assert answer.headers["cache-control"] == "no-store"
    token = session_cookie.partition("=")[2].partition(";")[0]
    async with database.transaction() as session:
        kept = "".join((await session.execute(text("select s::text from sessions s"))).scalars())
    assert token not in kept
    await cloud.close()


async def test_write_with_a_cookie_needs_the_csrf_token(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    body = {"project_id": ada.project_id, "name": "k"}
    good = ada.client.headers.pop(CSRF_HEADER)
    for forged in (None, "", "x", bob.client.headers[CSRF_HEADER]):
        headers = {} if forged is None else {CSRF_HEADER: forged}
        answer = await ada.client.post("/keys", json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["code"] == "csrf_token_invalid"
    assert (await ada.client.get("/keys")).status_code == 200
    assert (await ada.client.get("/auth/session")).json()["csrf_token"] == good
    assert (await ada.client.post("/keys", json=body, headers={CSRF_HEADER: good})).status_code == 201


async def test_key_needs_no_csrf_token_and_a_bad_key_is_not_made_good_by_a_cookie(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada, scopes=["management"])
    body = {"project_id": ada.project_id, "name": "k"}
    assert (await cloud.client(made["key"]).post("/keys", json=body)).status_code == 201
    answer = await ada.client.get("/me", headers={"authorization": "Bearer sk-cc-nonsense"})
    assert answer.status_code == 401
    assert (await ada.client.get("/me", headers={"authorization": "Basic YTpi"})).status_code == 401


async def test_wrong_password_and_unknown_account_look_alike(cloud: Cloud, ada: Tenant) -> None:
    wrong = await cloud.client().post("/auth/login", json={"email": ada.email, "password": ANOTHER})
    unknown = await cloud.client().post("/auth/login", json={"email": "nobody@example.com", "password": ANOTHER})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()


async def test_guessing_is_limited_per_account(database: Database, clock: ManualClock) -> None:
    cloud = build(database, clock, attempts_per_account=3)
    await register_only(cloud, "ada")
    client = cloud.client()
    guess = {"email": "ada@example.com", "password": ANOTHER}
    statuses = [(await client.post("/auth/login", json=guess)).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    good = {"email": "ada@example.com", "password": PASSWORD}
    refused = await client.post("/auth/login", json=good)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) == 900
    clock.advance(901)
    assert (await client.post("/auth/login", json=good)).status_code == 200
    await cloud.close()


async def test_guessing_is_limited_per_address(database: Database, clock: ManualClock) -> None:
    cloud = build(database, clock, attempts_per_address=3)
    client = cloud.client()
    statuses = []
    for number in range(4):
        guess = {"email": f"user{number}@example.com", "password": ANOTHER}
        statuses.append((await client.post("/auth/login", json=guess)).status_code)
    assert statuses == [401, 401, 401, 429]
    await cloud.close()


async def test_session_ends(cloud: Cloud, ada: Tenant, clock: ManualClock) -> None:
    other = cloud.client()
    await other.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    cookies = dict(ada.client.cookies)
    assert (await ada.client.post("/auth/logout")).status_code == 204
    assert (await ada.client.get("/me")).status_code == 401
    replayed = cloud.client()
    replayed.cookies.update(cookies)
    assert (await replayed.get("/me")).status_code == 401
    assert (await other.get("/me")).status_code == 200
    clock.advance(7 * 24 * 3600)
    assert (await other.get("/me")).status_code == 401


async def test_logout_everywhere(cloud: Cloud, ada: Tenant) -> None:
    other = cloud.client()
    await other.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    assert (await ada.client.post("/auth/logout-all")).status_code == 204
    assert (await other.get("/me")).status_code == 401


async def test_sessions_of_a_person_are_bounded(cloud: Cloud, ada: Tenant) -> None:
    for _ in range(22):
        cloud.clock.advance(1)
        await cloud.client().post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    async with cloud.database.transaction() as session:
        assert (await session.execute(text("select count(*) from sessions"))).scalar_one() == 20


async def test_password_change_ends_other_sessions(cloud: Cloud, ada: Tenant) -> None:
    other = cloud.client()
    await other.post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    wrong = {"present_password": ANOTHER, "new_password": ANOTHER}
    assert (await ada.client.post("/auth/password", json=wrong)).status_code == 403
    right = {"present_password": PASSWORD, "new_password": ANOTHER}
    assert (await ada.client.post("/auth/password", json=right)).status_code == 200
    assert (await ada.client.get("/me")).status_code == 200
    assert (await other.get("/me")).status_code == 401
    assert (await cloud.client().post("/auth/login", json={"email": ada.email, "password": ANOTHER})).status_code == 200


async def test_key_does_not_touch_the_account(cloud: Cloud, ada: Tenant) -> None:
    client = cloud.client((await make_key(ada, scopes=["management"]))["key"])
    body = {"present_password": PASSWORD, "new_password": ANOTHER}
    assert (await client.post("/auth/password", json=body)).status_code == 403
    assert (await client.get("/auth/session")).status_code == 403


async def test_password_reset_answers_the_same_and_mails_only_who_exists(cloud: Cloud, ada: Tenant) -> None:
    known = await cloud.client().post("/auth/password-reset", json={"email": "ADA@example.com"})
    unknown = await cloud.client().post("/auth/password-reset", json={"email": "nobody@example.com"})
    assert known.status_code == unknown.status_code == 202
    assert known.content == unknown.content
    await cloud.jobs.run_waiting()
    resets = [mail.to for mail in cloud.mailer.sent if "password" in mail.subject]
    assert resets == ["ada@example.com"]


async def test_password_reset_works_once_and_ends_sessions(cloud: Cloud, ada: Tenant) -> None:
    token = await reset_token(cloud, ada.email)
    confirm = {"token": token, "new_password": ANOTHER}
    assert (await cloud.client().post("/auth/password-reset/confirm", json=confirm)).status_code == 204
    assert (await ada.client.get("/me")).status_code == 401
    assert (await cloud.client().post("/auth/login", json={"email": ada.email, "password": ANOTHER})).status_code == 200
    assert (
        await cloud.client().post("/auth/login", json={"email": ada.email, "password": PASSWORD})
    ).status_code == 401
    again = await cloud.client().post("/auth/password-reset/confirm", json=confirm)
    assert again.status_code == 400
    assert again.json()["code"] == "invalid_token"


async def test_password_reset_lasts_an_hour_and_the_newest_counts(
    cloud: Cloud, ada: Tenant, clock: ManualClock
) -> None:
    first = await reset_token(cloud, ada.email)
    second = await reset_token(cloud, ada.email)
    for token in (first, "x"):
        body = {"token": token, "new_password": ANOTHER}
        assert (await cloud.client().post("/auth/password-reset/confirm", json=body)).status_code == 400
    clock.advance(3600)
    body = {"token": second, "new_password": ANOTHER}
    assert (await cloud.client().post("/auth/password-reset/confirm", json=body)).status_code == 400


async def test_operator_without_a_password_gets_one_by_reset(cloud: Cloud) -> None:
    await cloud.seed()
    async with cloud.database.transaction() as session:
        await session.execute(text("update users set password_hash = null"))
    login = {"email": "operator@example.com", "password": PASSWORD}
    assert (await cloud.client().post("/auth/login", json=login)).status_code == 401
    token = await reset_token(cloud, "operator@example.com")
    body = {"token": token, "new_password": PASSWORD}
    assert (await cloud.client().post("/auth/password-reset/confirm", json=body)).status_code == 204
    assert (await cloud.client().post("/auth/login", json=login)).status_code == 200


async def register_only(cloud: Cloud, name: str) -> None:
    """An account, whatever the cookies are."""
    body = {"email": f"{name}@example.com", "password": PASSWORD, "name": name}
    assert (await cloud.client().post("/auth/register", json=body)).status_code == 201


async def reset_token(cloud: Cloud, email: str) -> str:
    """The token of a freshly mailed link."""
    assert (await cloud.client().post("/auth/password-reset", json={"email": email})).status_code == 202
    return await mailed_token(cloud, "/password-reset#token=")


async def test_register_helper_signs_in(cloud: Cloud) -> None:
    tenant = await register(cloud, "zoe")
    assert (await tenant.client.get("/auth/session")).json()["user"]["name"] == "zoe"
