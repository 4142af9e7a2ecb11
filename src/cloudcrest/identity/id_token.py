"""What an identity provider says of a person: an ID token, held to OpenID Connect Core 1.0, section 3.1.3.7. Pure."""

from datetime import datetime
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from cloudcrest.kernel.errors import Unauthenticated

ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
"""Signatures of public keys alone: neither `none`, nor HMAC, which would take a published key for the secret."""
KEYS_MAX = 50
LEEWAY_SECONDS = 60
_SUBJECT_CHARACTERS_MAX = 255
_EMAIL_CHARACTERS_MAX = 254
_PUBLIC_KEY_TYPES = ("RSA", "EC", "OKP")


class UnknownSigningKey(Exception):
    """The token is signed with a key that is not in the set: the provider may have a new one."""


class Person(msgspec.Struct, frozen=True):
    """Who signed in at the provider. `subject` is theirs for good; `email` (lower case) and `name` may change."""

    subject: str
    email: str | None
    email_verified: bool
    name: str | None


def key_set(document: Any) -> KeySet:
    """The public signing keys of a JWKS document; what is no such key is passed over. Raises `ValueError`."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no JSON Web Key Set")
    keys = [key for key in map(_public_key, entries[:KEYS_MAX]) if key is not None]
    if not keys:
        raise ValueError("no public signing key in the set")
    return KeySet(keys)


def read_id_token(
    token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, now: datetime
) -> dict[str, Any]:
    """The claims of a token that is the issuer's, for this client, for this sign-in, and of now.

    Raises `UnknownSigningKey`, and `Unauthenticated` for everything else that does not hold.
    """
    rules = jwt.JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
        rules.validate(claims)
    except InvalidKeyIdError as error:
        raise UnknownSigningKey from error
    except (JoseError, ValueError, TypeError) as error:
        raise refused(str(error)) from error
    if claims["nonce"] != nonce:  # joserfc also takes a list that holds it
        raise refused("the nonce is of another sign-in")
    audience = claims["aud"]
    has_others = isinstance(audience, list) and len(audience) > 1
    if claims.get("azp", None if has_others else client_id) != client_id:
        raise refused("the token was issued to another client")
    return claims


def person(claims: dict[str, Any]) -> Person:
    """Who claims are about. An address counts as verified only where the provider says so outright."""
    subject, email, name = (_text(claims.get(field)) for field in ("sub", "email", "name"))
    if not subject or len(subject) > _SUBJECT_CHARACTERS_MAX:
        raise refused("the subject is missing or too long")
    return Person(
        subject=subject,
        email=email.lower() if email and len(email) <= _EMAIL_CHARACTERS_MAX else None,
        email_verified=claims.get("email_verified") is True,
        name=name,
    )


def refused(reason: str) -> Unauthenticated:
    """The error for an answer of the provider that does not hold."""
    return Unauthenticated(
        f"the identity provider's answer does not hold: {reason}", code="oidc_failed", hint="start the sign-in again"
    )


def _text(value: Any) -> str | None:
    """Text that a database can hold, else None: JSON has lone surrogates and NUL too."""
    if not isinstance(value, str) or "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return None
    return value


def _public_key(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") not in _PUBLIC_KEY_TYPES or entry.get("use", "sig") != "sig":
        return None
    try:
        return JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
