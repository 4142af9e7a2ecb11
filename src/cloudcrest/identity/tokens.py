"""Secrets that are shown once and kept as hashes: API keys, session cookies, links."""

import hashlib
import hmac
import secrets
from collections.abc import Callable

KEY_START = "sk-cc-"
_SECRET_BYTES = 32
_SHOWN_CHARACTERS = len(KEY_START) + 6

NewSecret = Callable[[], str]
"""Makes 43 unguessable URL-safe characters (256 bits)."""


def new_secret() -> str:
    """From the operating system's randomness."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def sha256_hex(secret: str) -> str:
    """How a secret of 256 bits is kept: too long to guess, so a plain hash is enough and can be looked up."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def shown_prefix(key: str) -> str:
    """The first characters of a key, for people to recognise it by: 36 of its 256 bits."""
    return key[:_SHOWN_CHARACTERS]


def csrf_token(session_token: str) -> str:
    """The session's CSRF token: who has the cookie's value can derive it, another site cannot."""
    return sha256_hex(f"csrf:{session_token}")


def same(left: str, right: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))
