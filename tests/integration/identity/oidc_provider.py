"""A real OpenID Connect provider on loopback, which can be told to misbehave."""

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import uvicorn
from joserfc import jws, jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cloudcrest.kernel.clock import ManualClock
from tests.support.waiting import until_async

CLIENT_ID = "cloud client"
CLIENT_SECRET = "secret:with/odd characters"

Forge = Callable[[dict[str, Any], RSAKey], str]
"""Makes a token of claims and the provider's key, in place of an honest one."""


@functools.cache
def rsa_key(name: str) -> RSAKey:
    """A key pair by its `kid`: making one takes a while."""
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@dataclass
class Account:
    """Who signs in at the provider. `email_verified` None: the provider does not say."""

    subject: str = "subject-1"
    email: str | None = "ada@example.com"
    email_verified: object = True
    name: str | None = "Ada"

    def claims(self) -> dict[str, Any]:
        """What the provider says of them."""
        said = {"sub": self.subject, "email": self.email, "email_verified": self.email_verified, "name": self.name}
        return {name: value for name, value in said.items() if value is not None}


@dataclass
class Provider:
    """`changed_claims` are put over those of every token; `forge` signs instead; `thin`: e-mail only as user info."""

    clock: ManualClock
    issuer: str = ""
    account: Account = field(default_factory=Account)
    changed_claims: dict[str, Any] = field(default_factory=dict)
    forge: Forge | None = None
    thin: bool = False
    user_info_subject: str | None = None
    metadata_changes: dict[str, Any] = field(default_factory=dict)
    is_down: bool = False
    key: RSAKey = field(default_factory=lambda: rsa_key("first"))
    calls: list[str] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _access: dict[str, Account] = field(default_factory=dict)

    def authorize(self, url: str) -> dict[str, str]:
        """What a browser does with the sign-in page: the query it is sent back with."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        query = dict(parse_qsl(parts.query, strict_parsing=True))
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        return {"code": code, "state": query["state"], "iss": self.issuer}

    def rotate_key(self) -> None:
        """Signs with a new key from now on."""
        self.key = rsa_key("second")

    def app(self) -> Starlette:
        """The provider's HTTP face."""
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/jwks", self._jwks),
            Route("/token", self._token, methods=["POST"]),
            Route("/userinfo", self._user_info),
        ]
        return Starlette(routes=routes)

    async def _discovery(self, _: Request) -> Response:
        self.calls.append("discovery")
        if self.is_down:
            return Response(status_code=500)
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "response_types_supported": ["code"],
        }
        return JSONResponse(document | self.metadata_changes)

    async def _jwks(self, _: Request) -> Response:
        self.calls.append("jwks")
        return JSONResponse({"keys": [rsa_key("other").as_dict(private=False), self.key.as_dict(private=False)]})

    async def _token(self, request: Request) -> Response:
        self.calls.append("token")
        form = dict(parse_qsl((await request.body()).decode()))
        asked = self._codes.pop(form.get("code", ""), None)
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        expected = "cloud%20client:secret%3Awith%2Fodd%20characters"
        if scheme != "Basic" or base64.b64decode(pair).decode() != expected:
            return JSONResponse({"error": "invalid_client"}, 401)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if (
            asked is None
            or form["grant_type"] != "authorization_code"
            or asked["code_challenge"] != challenge.rstrip("=")
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access = secrets.token_urlsafe(16)
        self._access[access] = self.account
        return JSONResponse(
            {"id_token": self._id_token(asked["nonce"]), "access_token": access, "token_type": "Bearer"}
        )

    async def _user_info(self, request: Request) -> Response:
        self.calls.append("userinfo")
        account = self._access[request.headers["authorization"].removeprefix("Bearer ")]
        said = account.claims()
        return JSONResponse(said | {"sub": self.user_info_subject or account.subject})

    def _id_token(self, nonce: str) -> str:
        now = int(self.clock.now().timestamp())
        said = {"sub": self.account.subject} if self.thin else self.account.claims()
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": nonce, **said}
        claims |= self.changed_claims
        if self.forge is not None:
            return self.forge(claims, self.key)
        # Escaped as ASCII, which lets a lone surrogate through.
        payload = json.dumps(claims).encode()
        return jws.serialize_compact({"alg": "RS256", "kid": self.key.kid}, payload, self.key)


def unsigned(claims: dict[str, Any], _: RSAKey) -> str:
    """A token with alg none."""
    signed = jwt.encode({"alg": "HS256", "kid": "first"}, claims, OctKey.import_key(b"k" * 32))
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"first"}').rstrip(b"=").decode()
    return f"{header}.{signed.split('.')[1]}."


def signed_with_the_public_key(claims: dict[str, Any], key: RSAKey) -> str:
    """A token whose HMAC secret is the key that the provider publishes."""
    secret = OctKey.import_key(str(key.as_dict(private=False)["n"]))
    return jwt.encode({"alg": "HS256", "kid": key.kid}, claims, secret)


def signed_by_another(claims: dict[str, Any], key: RSAKey) -> str:
    """A token signed with a key that only claims to be the provider's."""
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, rsa_key("other"))


@contextlib.asynccontextmanager
async def running_provider(clock: ManualClock) -> AsyncIterator[Provider]:
    """A provider on a port of its own."""
    provider = Provider(clock)
    listening = socket.create_server(("127.0.0.1", 0))
    provider.issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(provider.app(), log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await until_async(lambda: server.started, "the identity provider listens")
    try:
        yield provider
    finally:
        server.should_exit = True
        await serving


async def sign_in(client: httpx2.AsyncClient, provider: Provider, return_to: str = "/") -> httpx2.Response:
    """The callback's answer, after a browser went to the provider and came back."""
    return await client.get("/auth/oidc/callback", params=await visit(client, provider, return_to))


async def visit(client: httpx2.AsyncClient, provider: Provider, return_to: str = "/") -> dict[str, str]:
    """What the browser is sent back with."""
    begun = await client.get("/auth/oidc/login", params={"return_to": return_to})
    assert begun.status_code == 302, begun.text
    return provider.authorize(begun.headers["location"])
