"""ID tokens: which keys, claims and shapes are taken."""

from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from cloudcrest.identity.id_token import KEYS_MAX, Person, UnknownSigningKey, key_set, person, read_id_token
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.settings import load_settings
from cloudcrest.kernel.errors import SetupError, Unauthenticated

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
CLAIMS: dict[str, Any] = {"iss": "i", "aud": "c", "sub": "s", "exp": SECONDS + 1, "iat": SECONDS, "nonce": "n"}


def public(*keys: RSAKey | ECKey | OctKey) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


def read(token: str, keys: dict[str, Any] | None = None) -> dict[str, Any]:
    return read_id_token(token, key_set(keys or public(RSA, EC)), issuer="i", client_id="c", nonce="n", now=NOW)


def signed(algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    header = {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    return jwt.encode(header, CLAIMS | changes, EC if kid == "ec" else RSA, algorithms=[algorithm])


def test_good_tokens_are_read() -> None:
    for token in (signed(), signed("PS256"), signed("ES256", "ec"), signed(aud=["c"]), signed(aud=["x", "c"], azp="c")):
        assert read(token)["sub"] == "s"
    assert read(signed(kid=None), public(RSA))["sub"] == "s", "one key needs no name"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "j"},
        {"iss": ["i"]},
        {"aud": "d"},
        {"aud": []},
        {"aud": ["c", "d"]},
        {"azp": "d"},
        {"nonce": "m"},
        {"nonce": ["n"]},
        {"nonce": None},
        {"exp": SECONDS - 60},
        {"exp": None},
        {"exp": "soon"},
        {"iat": SECONDS + 61},
        {"nbf": SECONDS + 61},
        {"sub": None},
        {"sub": 7},
    ],
)
def test_claims_that_do_not_hold_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        read(signed(**changes))


def test_clocks_may_differ_by_a_minute() -> None:
    assert read(signed(exp=SECONDS - 59, iat=SECONDS + 60))


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "....", "é.é.é", "W10.W10.aa", "e30.e30.aa", "x" * 100_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        read(token)


def test_algorithms_outside_the_list_are_refused() -> None:
    for algorithm in ("RS512", "RS384"):
        with pytest.raises(Unauthenticated):
            read(signed(algorithm))
    secret = OctKey.import_key(b"k" * 32, {"kid": "shared"})
    with pytest.raises(Unauthenticated):
        read(jwt.encode({"alg": "HS256", "kid": "rsa"}, CLAIMS, secret))


def test_unknown_key_is_told_apart() -> None:
    for kid in ("other", None):
        with pytest.raises(UnknownSigningKey):
            read(signed(kid=kid))


def test_key_set_takes_public_signing_keys_alone() -> None:
    secret = OctKey.import_key(b"k" * 32, {"kid": "shared"})
    encrypting = RSA.as_dict(private=False) | {"use": "enc", "kid": "enc"}
    junk: list[Any] = [3, None, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "x", "x": "a", "y": "b"}, {"kty": "PQC"}]
    keys = {"keys": [*junk, secret.as_dict(), encrypting, *public(EC)["keys"]]}
    assert [key.kid for key in key_set(keys)] == ["ec"]
    many = {"keys": [{"kty": "RSA"}] * KEYS_MAX + public(EC)["keys"]}
    wrong: list[Any] = [None, [], {}, {"keys": {}}, {"keys": junk}, many]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"(?i)key"):
            key_set(bad)


def test_person_is_verified_only_by_true() -> None:
    assert person({"sub": "s", "email": "A@B.c", "email_verified": True, "name": "A"}) == Person(
        "s", "a@b.c", True, "A"
    )
    for said in (None, False, "true", 1, [True]):
        assert not person({"sub": "s", "email_verified": said}).email_verified
    for name in (None, 3, "\ud800", "\x00"):
        assert person({"sub": "s", "name": name, "email": name}) == Person("s", None, False, None)
    for subject in (None, "", "x" * 256, "\ud800", 3):
        with pytest.raises(Unauthenticated):
            person({"sub": subject})


@pytest.mark.parametrize(
    "given",
    [
        {"CLOUDCREST_OIDC_ISSUER": "https://id.example.com"},
        {"CLOUDCREST_OIDC_CLIENT_ID": "c"},
        {"CLOUDCREST_OIDC_ISSUER": "id.example.com", "CLOUDCREST_OIDC_CLIENT_ID": "c"},
        {"CLOUDCREST_OIDC_ISSUER": "https://user@id.example.com", "CLOUDCREST_OIDC_CLIENT_ID": "c"},
        {"CLOUDCREST_OIDC_ISSUER": "https://id.example.com?x", "CLOUDCREST_OIDC_CLIENT_ID": "c"},
    ],
)
def test_half_or_wrong_settings_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(SetupError):
        load_settings(IdentitySettings, given)


def test_settings_from_the_environment() -> None:
    given = {"CLOUDCREST_OIDC_ISSUER": "http://id:8080/realms/x", "CLOUDCREST_OIDC_CLIENT_ID": "c"}
    settings = load_settings(IdentitySettings, given)
    assert (settings.oidc_issuer, settings.oidc_client_id) == ("http://id:8080/realms/x", "c")
