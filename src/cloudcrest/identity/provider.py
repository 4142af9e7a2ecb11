"""An OpenID Connect provider as a client sees it: discovery, keys, and a code's exchange for who signed in.

Follows OpenID Connect Discovery 1.0 and Core 1.0 (code flow), and RFC 7636 (PKCE). Every call is short, and what it
answers is bounded; the provider's own host may be inside this network, since an operator named it.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from joserfc.jwk import KeySet

from cloudcrest.identity.id_token import Person, UnknownSigningKey, key_set, person, read_id_token, refused
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.outbound import OutboundPolicy, guarded_client
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, PermissionDenied, Unavailable
from cloudcrest.kernel.units import KIB

KEPT_SECONDS = 3600.0
NEW_KEYS_EVERY_SECONDS = 60.0
RETRY_SECONDS = 5.0
CALL_SECONDS = 10.0
ANSWER_BYTES_MAX = 256 * KIB
SCOPES = "openid email profile"
_DISCOVERY_PATH = "/.well-known/openid-configuration"
Value = TypeVar("Value")


class Metadata(msgspec.Struct, frozen=True):
    """What a provider says of itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class Tokens(msgspec.Struct, frozen=True):
    """What a code is exchanged for."""

    id_token: str
    access_token: str | None = None


class Attempt(msgspec.Struct, frozen=True):
    """One sign-in: random values that tie what comes back to the browser that went (`state`), to the token (`nonce`)
    and to who began (`verifier`, PKCE).
    """

    state: str
    nonce: str
    verifier: str


class IdentityProvider:
    """One provider. Raises `Unavailable` where it does not answer as it should, `Unauthenticated` for bad sign-ins."""

    def __init__(self, *, issuer: str, client_id: str, client_secret: str | None, name: str, clock: Clock) -> None:
        self.issuer = issuer
        self.name = name
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._policy = OutboundPolicy([httpx2.URL(issuer).host])
        self._metadata = _Kept(self._discover, clock)
        self._keys = _Kept(self._fetch_keys, clock)

    async def sign_in_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where the browser goes to sign in."""
        metadata = await self._metadata.get()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        wanted = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": SCOPES,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return str(httpx2.URL(metadata.authorization_endpoint).copy_merge_params(wanted))

    async def person(self, code: str, attempt: Attempt, redirect_uri: str) -> Person:
        """Who signed in, for the code that the browser brought back."""
        metadata = await self._metadata.get()
        tokens = await self._exchange(metadata, code, attempt.verifier, redirect_uri)
        claims = await self._read(tokens.id_token, attempt.nonce)
        found = person(claims)
        if found.email is not None or metadata.userinfo_endpoint is None or tokens.access_token is None:
            return found
        more = await self._user_info(metadata.userinfo_endpoint, tokens.access_token)
        if more.get("sub") != found.subject:
            raise refused("its user info is about someone else")
        return person(more)

    async def _read(self, token: str, nonce: str) -> dict[str, Any]:
        """The token's claims; a key that is not known yet is looked for once, not more often than each minute."""

        def read(keys: KeySet) -> dict[str, Any]:
            return read_id_token(
                token, keys, issuer=self.issuer, client_id=self._client_id, nonce=nonce, now=self._clock.now()
            )

        try:
            return read(await self._keys.get())
        except UnknownSigningKey:
            try:
                return read(await self._keys.get(at_most_seconds_old=NEW_KEYS_EVERY_SECONDS))
            except UnknownSigningKey as error:
                raise refused("the token is signed with an unknown key") from error

    async def _exchange(self, metadata: Metadata, code: str, verifier: str, redirect_uri: str) -> Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        secret = self._client_secret
        methods = metadata.token_endpoint_auth_methods_supported
        if secret is not None and ("client_secret_basic" in methods or "client_secret_post" not in methods):
            pair = f"{quote(self._client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self._client_id
            if secret is not None:
                form["client_secret"] = secret
        status, body = await self._call("POST", metadata.token_endpoint, data=form, headers=headers)
        if 400 <= status < 500:
            raise refused(f"it did not take the sign-in's code ({status})")
        return _decode(body, Tokens, status)

    async def _user_info(self, url: str, access_token: str) -> dict[str, Any]:
        status, body = await self._call("GET", url, headers={"authorization": f"Bearer {access_token}"})
        return _decode(body, dict[str, Any], status)

    async def _discover(self) -> Metadata:
        status, body = await self._call("GET", self.issuer.rstrip("/") + _DISCOVERY_PATH)
        metadata = _decode(body, Metadata, status)
        if metadata.issuer != self.issuer:
            raise _unavailable("it calls itself by another issuer than CLOUDCREST_OIDC_ISSUER")
        endpoints = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
        scheme = "https://" if self.issuer.startswith("https://") else ("https://", "http://")
        if not all(url.startswith(scheme) for url in (*endpoints, metadata.userinfo_endpoint or self.issuer)):
            raise _unavailable("one of its endpoints is no https:// URL")
        return metadata

    async def _fetch_keys(self) -> KeySet:
        metadata = await self._metadata.get()
        status, body = await self._call("GET", metadata.jwks_uri)
        try:
            return key_set(_decode(body, dict[str, Any], status))
        except ValueError as error:
            raise _unavailable(str(error)) from error

    async def _call(self, method: str, url: str, **request: Any) -> tuple[int, bytes]:
        """The status and the body. Redirects are not followed: a provider names its endpoints."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                guarded_client(self._policy, timeout=httpx2.Timeout(CALL_SECONDS)) as client,
                client.stream(method, url, **request) as response,
            ):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        raise _unavailable("its answer is too long")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, PermissionDenied) as error:
            raise _unavailable(type(error).__name__) from error
        return response.status_code, bytes(body)


def configured_provider(settings: IdentitySettings, clock: Clock) -> IdentityProvider | None:
    """The provider that an operator set, None where there is none."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    return IdentityProvider(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        name=settings.oidc_name,
        clock=clock,
    )


class _Kept(Generic[Value]):
    """Something fetched, kept for an hour. One fetches at a time; for a while after a failure, nobody does."""

    def __init__(self, fetch: Callable[[], Awaitable[Value]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: tuple[Value, float] | None = None
        self._failed_at: float | None = None

    async def get(self, *, at_most_seconds_old: float = KEPT_SECONDS) -> Value:
        async with self._lock:
            now = self._clock.monotonic()
            if self._found is not None and now - self._found[1] < at_most_seconds_old:
                return self._found[0]
            if self._failed_at is not None and now - self._failed_at < RETRY_SECONDS:
                raise _unavailable("it did not answer as it should a moment ago")
            try:
                value = await self._fetch()
            except CloudcrestError:
                self._failed_at = self._clock.monotonic()
                raise
            self._found = (value, self._clock.monotonic())
            return value


def _decode(body: bytes, wanted: type[Value], status: int) -> Value:
    if status != 200:
        raise _unavailable(f"it answered with status {status}")
    try:
        return msgspec.json.decode(body, type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unavailable("its answer has another shape than the standard's") from error


def _unavailable(reason: str) -> Unavailable:
    return Unavailable(
        f"the identity provider cannot be used now: {reason}",
        code="identity_provider_unavailable",
        hint="try again in a moment; an operator sees to it if it stays so",
        retry_after_seconds=RETRY_SECONDS,
    )
