"""Who calls: the SHA-256 of the key that was sent, looked up. Pure."""

from hashlib import sha256

from cloudcrest.gateway.errors import missing_key, suspended, unknown_key
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.identity.api import KeyDocument, Scope
from cloudcrest.kernel.errors import PermissionDenied

MAX_KEY_BYTES = 512


def authenticate(snapshot: Snapshot, authorization: bytes | None, now_unix_seconds: float) -> KeyDocument:
    """The key of an `Authorization: Bearer` header. Raises as `key_digest` and `key_of` do."""
    return key_of(snapshot, key_digest(authorization), now_unix_seconds)


def key_digest(authorization: bytes | None) -> bytes:
    """The SHA-256 of the key in an `Authorization: Bearer` header. Raises `Unauthenticated` where there is none."""
    if authorization is None:
        raise missing_key()
    scheme, _, secret = authorization.partition(b" ")
    secret = secret.strip()
    if scheme.lower() != b"bearer" or not secret or len(secret) > MAX_KEY_BYTES:
        raise missing_key()
    return sha256(secret).digest()


def key_of(snapshot: Snapshot, digest: bytes, now_unix_seconds: float, scope: Scope = "inference") -> KeyDocument:
    """The key with this SHA-256, where it is for what `scope` says.

    Raises `Unauthenticated` (unknown, expired, revoked), `PermissionDenied` (it lacks the scope) and `LimitExceeded`
    with the code insufficient_quota (the organization is suspended).
    """
    if scope == "inference":
        key = snapshot.usual_keys.get(digest)
        if key is not None:
            return key
    key = snapshot.keys.get(digest)
    if key is None:
        raise unknown_key()
    if key.expires_at_unix_seconds is not None and key.expires_at_unix_seconds <= now_unix_seconds:
        raise unknown_key()
    organization = snapshot.organizations.get(key.organization_id)
    if organization is None:
        raise unknown_key()
    if scope not in key.scopes:
        raise PermissionDenied(
            f"this API key is not for {scope}", code="missing_scope", hint=f"make one with the scope '{scope}'"
        )
    if organization.suspended_reason is not None:
        raise suspended(organization.suspended_reason)
    if scope == "inference" and key.expires_at_unix_seconds is None:
        snapshot.usual_keys[digest] = key
    return key
