"""Sign-in through a real OpenID Connect provider, honest and not."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.infra.http.app import CSRF_HEADER
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import PASSWORD, Cloud, build, mailed_token, register
from tests.integration.identity.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    Forge,
    Provider,
    running_provider,
    sign_in,
    signed_by_another,
    signed_with_the_public_key,
    unsigned,
    visit,
)

pytestmark = pytest.mark.anyio

VERIFY = "/verify-email#token="


@pytest.fixture
async def provider(clock: ManualClock, anyio_backend: str) -> AsyncIterator[Provider]:
    """An identity provider."""
    async with running_provider(clock) as running:
        yield running


@pytest.fixture
async def linked(database: Database, clock: ManualClock, provider: Provider) -> AsyncIterator[Cloud]:
    """A cloud that knows it."""
    built = build(database, clock, **oidc_settings(provider))
    yield built
    await built.close()


def oidc_settings(provider: Provider, **changes: Any) -> dict[str, Any]:
    return {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "oidc_name": "Example Inc.",
        "public_url": "http://cloud.test",
        **changes,
    }


async def test_without_a_provider_there_is_nothing(cloud: Cloud) -> None:
    for path in ("", "/login", "/callback"):
        answer = await cloud.client().get(f"/auth/oidc{path}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "no identity provider is configured"


async def test_first_sign_in_makes_an_account_and_the_next_finds_it(linked: Cloud, provider: Provider) -> None:
    client = linked.client()
    assert (await client.get("/auth/oidc")).json() == {"name": "Example Inc.", "login_url": "/api/v1/auth/oidc/login"}
    answer = await sign_in(client, provider, "/keys?page=2#new")
    assert answer.status_code == 302, answer.text
    assert answer.headers["location"] == "/keys?page=2#new"
    me = (await client.get("/me")).json()
    assert (me["user"]["email"], me["user"]["name"]) == ("ada@example.com", "Ada")
    assert me["user"]["email_verified_at"] is not None
    assert [membership["role"] for membership in me["memberships"]] == ["owner"]
    assert len(linked.created.calls) == 1
    session = (await client.get("/auth/session")).json()
    assert (await client.post("/auth/logout", headers={CSRF_HEADER: session["csrf_token"]})).status_code == 204
    provider.account.email, provider.account.name = "ada@elsewhere.example.com", "Ada L."
    assert (await sign_in(client, provider)).status_code == 302
    assert (await client.get("/me")).json()["id"] == me["id"]
    assert len(linked.created.calls) == 1
    await linked.jobs.run_waiting()
    assert linked.mailer.sent == []


async def test_cookies_are_guarded_and_tell_nothing(database: Database, clock: ManualClock, provider: Provider) -> None:
    cloud = build(database, clock, **oidc_settings(provider, secure_cookies=True))
    begun = await cloud.client().get("/auth/oidc/login")
    cookie = begun.headers["set-cookie"]
    for mark in ("HttpOnly", "SameSite=lax", "Secure", "Path=/api/v1/auth/oidc", "Max-Age=600"):
        assert mark in cookie
    query = provider.authorize(begun.headers["location"])
    assert query["state"] not in cookie
    assert begun.headers["cache-control"] == "no-store"
    await cloud.close()


async def test_return_stays_in_this_cloud(linked: Cloud) -> None:
    elsewhere = ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/\t/evil.example", "/a\\b", "/é"]
    for return_to in [*elsewhere, "", "/" + "x" * 500]:
        answer = await linked.client().get("/auth/oidc/login", params={"return_to": return_to})
        assert answer.status_code == 422, return_to


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"aud": "another client"},
        {"aud": [CLIENT_ID, "another client"]},
        {"azp": "another client"},
        {"iss": "https://another.example.com"},
        {"exp": 1_000_000_000},
        {"iat": 4_000_000_000},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "\ud800"},
    ],
)
async def test_token_that_is_not_for_this_sign_in_is_refused(
    linked: Cloud, provider: Provider, claims: dict[str, Any]
) -> None:
    provider.changed_claims = claims
    await assert_refused(linked, provider)


@pytest.mark.parametrize("forge", [unsigned, signed_with_the_public_key, signed_by_another])
async def test_forged_token_is_refused(linked: Cloud, provider: Provider, forge: Forge) -> None:
    provider.forge = forge
    await assert_refused(linked, provider)


async def assert_refused(cloud: Cloud, provider: Provider) -> None:
    client = cloud.client()
    answer = await sign_in(client, provider)
    assert (answer.status_code, answer.json()["code"]) == (401, "oidc_failed")
    assert "set-cookie" not in answer.headers
    assert (await client.get("/me")).status_code == 401
    assert cloud.created.calls == []


async def test_state_is_the_browsers_own_and_works_once(linked: Cloud, provider: Provider, clock: ManualClock) -> None:
    client, other = linked.client(), linked.client()
    back = await visit(client, provider)
    await visit(other, provider)
    begun = client.cookies["cloudcrest_oidc"]
    for wrong in (other, linked.client()):
        assert await lost(wrong, back)
    assert await lost(client, back | {"state": "x"})
    assert await lost(client, back | {"iss": "https://another.example.com"})
    assert (await client.get("/auth/oidc/callback", params=back)).status_code == 302
    assert await lost(client, back)
    # One who kept the cookie, with a code that the provider would take.
    fresh = provider.authorize((await linked.client().get("/auth/oidc/login")).headers["location"])
    client.cookies.set("cloudcrest_oidc", begun)
    assert await lost(client, back | {"code": fresh["code"]})
    late = await visit(client, provider)
    clock.advance(600)
    assert await lost(client, late)
    for junk in ("x", "é".encode("latin-1").decode("latin-1")):
        answer = await linked.client().get(
            "/auth/oidc/callback", params=back, headers={b"cookie": f"cloudcrest_oidc={junk}".encode("latin-1")}
        )
        assert answer.status_code == 400


async def lost(client: Any, back: dict[str, str]) -> bool:
    """Whether the callback answers that it knows of no such sign-in."""
    answer = await client.get("/auth/oidc/callback", params=back)
    return (answer.status_code, answer.json()["code"]) == (400, "oidc_state_invalid")


async def test_code_of_another_sign_in_is_refused(linked: Cloud, provider: Provider) -> None:
    """A code put under someone else's sign-in: PKCE and the nonce tie it to who began."""
    victim = linked.client()
    attackers = await visit(linked.client(), provider)
    back = await visit(victim, provider)
    answer = await victim.get("/auth/oidc/callback", params=back | {"code": attackers["code"]})
    assert (answer.status_code, answer.json()["code"]) == (401, "oidc_failed")


async def test_provider_may_refuse(linked: Cloud, provider: Provider) -> None:
    client = linked.client()
    back = await visit(client, provider)
    answer = await client.get("/auth/oidc/callback", params={"error": "access_denied", "state": back["state"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "oidc_refused")
    assert "access_denied" in answer.json()["detail"]


async def test_account_is_linked_where_both_sides_proved_the_address(linked: Cloud, provider: Provider) -> None:
    ada = await register(linked, "ada")
    client = linked.client()
    refused = await sign_in(client, provider)
    assert (refused.status_code, refused.json()["code"]) == (409, "account_not_linked")
    body = {"token": await mailed_token(linked, VERIFY)}
    assert (await ada.client.post("/auth/verify-email", json=body)).status_code == 204
    for said in (False, None, "true", 1):
        provider.account.email_verified = said
        assert (await sign_in(client, provider)).status_code == 409
    provider.account.email, provider.account.email_verified = "Ada@Example.com", True
    assert (await sign_in(client, provider)).status_code == 302
    assert (await client.get("/me")).json()["id"] == ada.user_id
    provider.account.subject = "subject-2"
    assert (await sign_in(client, provider)).status_code == 302, "the address is proved, whatever the subject"
    assert len(linked.created.calls) == 1


async def test_unverified_mail_makes_an_unverified_account(linked: Cloud, provider: Provider) -> None:
    provider.account.email_verified = None
    client = linked.client()
    assert (await sign_in(client, provider)).status_code == 302
    assert (await client.get("/me")).json()["user"]["email_verified_at"] is None
    token = await mailed_token(linked, VERIFY)
    csrf = (await client.get("/auth/session")).json()["csrf_token"]
    verified = await client.post("/auth/verify-email", json={"token": token}, headers={CSRF_HEADER: csrf})
    assert verified.status_code == 204
    assert (await sign_in(linked.client(), provider)).status_code == 302


async def test_squatter_through_the_provider_loses_the_account(linked: Cloud, provider: Provider) -> None:
    provider.account.email_verified = False
    squatter = linked.client()
    assert (await sign_in(squatter, provider)).status_code == 302
    await linked.client().post("/auth/password-reset", json={"email": "ada@example.com"})
    body = {"token": await mailed_token(linked, "/password-reset#token="), "new_password": PASSWORD}
    assert (await linked.client().post("/auth/password-reset/confirm", json=body)).status_code == 204
    assert (await squatter.get("/me")).status_code == 401
    assert (await sign_in(squatter, provider)).status_code == 409


async def test_registration_setting_holds(database: Database, clock: ManualClock, provider: Provider) -> None:
    cloud = build(database, clock, **oidc_settings(provider, registration="invitation"))
    refused = await sign_in(cloud.client(), provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "registration_by_invitation")
    async with database.transaction() as session:
        assert (await session.execute(text("select count(*) from users"))).scalar_one() == 0
    await cloud.close()


@pytest.mark.parametrize(("email", "name"), [("no address", "x"), (None, "x"), ("a@b\x00", None), ("x" * 300, "x")])
async def test_account_needs_an_address(linked: Cloud, provider: Provider, email: str | None, name: str | None) -> None:
    provider.account.email, provider.account.name = email, name
    refused = await sign_in(linked.client(), provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "oidc_no_email")


@pytest.mark.parametrize(
    ("name", "known_as"), [(None, "ada"), ("\x1b[2J", "[2J"), ("x" * 500, "x" * 100), ("\ud800", "ada"), (" ", "ada")]
)
async def test_any_name_can_be_stored(linked: Cloud, provider: Provider, name: str | None, known_as: str) -> None:
    provider.changed_claims = {"name": name}
    client = linked.client()
    assert (await sign_in(client, provider)).status_code == 302
    assert (await client.get("/me")).json()["user"]["name"] == known_as


async def test_address_may_come_as_user_info(linked: Cloud, provider: Provider) -> None:
    provider.thin = True
    provider.user_info_subject = "someone else"
    await assert_refused(linked, provider)
    provider.user_info_subject = None
    client = linked.client()
    assert (await sign_in(client, provider)).status_code == 302
    assert (await client.get("/me")).json()["user"]["email"] == "ada@example.com"


async def test_discovery_and_keys_are_kept_and_new_keys_found(
    linked: Cloud, provider: Provider, clock: ManualClock
) -> None:
    for _ in range(2):
        assert (await sign_in(linked.client(), provider)).status_code == 302
    assert provider.calls == ["discovery", "token", "jwks", "token"]
    provider.rotate_key()
    assert (await sign_in(linked.client(), provider)).status_code == 401, "keys are not asked for again at once"
    clock.advance(60)
    assert (await sign_in(linked.client(), provider)).status_code == 302
    assert provider.calls.count("jwks") == 2
    clock.advance(3600)
    assert (await sign_in(linked.client(), provider)).status_code == 302
    assert (provider.calls.count("discovery"), provider.calls.count("jwks")) == (2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://another.example.com"},
        {"token_endpoint": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
        {"padding": "x" * 300_000},
    ],
)
async def test_provider_that_is_not_one_is_not_used(linked: Cloud, provider: Provider, changes: dict[str, Any]) -> None:
    provider.metadata_changes = changes
    answer = await linked.client().get("/auth/oidc/login")
    assert (answer.status_code, answer.json()["code"]) == (503, "identity_provider_unavailable")


async def test_provider_that_is_down_is_not_hammered(linked: Cloud, provider: Provider, clock: ManualClock) -> None:
    provider.is_down = True
    for _ in range(3):
        assert (await linked.client().get("/auth/oidc/login")).status_code == 503
    assert provider.calls == ["discovery"]
    provider.is_down = False
    clock.advance(5)
    assert (await linked.client().get("/auth/oidc/login")).status_code == 302


async def test_endpoint_inside_the_network_is_not_called_unless_it_is_the_operators(
    linked: Cloud, provider: Provider
) -> None:
    """The operator named one host; what its metadata names besides is judged as any address."""
    provider.metadata_changes = {"token_endpoint": "http://127.0.0.2:9/token"}
    answer = await sign_in(linked.client(), provider)
    assert (answer.status_code, answer.json()["code"]) == (503, "identity_provider_unavailable")
    assert "PermissionDenied" in answer.json()["detail"]
