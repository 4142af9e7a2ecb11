"""Asks the gateway for inference on behalf of a key, over loopback with the internal token (gateway/behalf.py)."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec

from cloudcrest.gateway.behalf import BATCH_TIER, BEHALF_HEADER, TIER_HEADER
from cloudcrest.kernel.errors import TooLarge, Unavailable
from cloudcrest.kernel.units import MIB

MAX_ANSWER_BYTES = 64 * MIB
_CONNECTIONS = 512
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 3600.0
"""The gateway ends every request at its deadline; this is for one that is stopped."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer of the gateway, an error as well. `retry_after_seconds`: where it says so."""

    status: int
    request_id: str
    body: bytes
    retry_after_seconds: float = 0.0


class Inference:
    """The gateway, as this service asks it. Close `client` when it is done with."""

    def __init__(self, gateway_url: str, token: str, certificate: Path | None) -> None:
        self.client = httpx2.AsyncClient(
            base_url=gateway_url,
            verify=_trust(certificate),
            trust_env=False,
            timeout=httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=32),
        )
        self._token = token

    async def ask(self, path: str, body: bytes, *, key_id: str, request_id: str = "", is_batch: bool = False) -> Answer:
        """A whole answer. Raises `httpx2.HTTPError` where the gateway is lost on the way: then nobody knows whether it
        has answered.
        """
        async with self.open(path, body, key_id=key_id, request_id=request_id, is_batch=is_batch) as response:
            return await read_answer(response)

    @asynccontextmanager
    async def open(
        self,
        path: str,
        body: bytes,
        *,
        key_id: str,
        request_id: str = "",
        is_batch: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """An answer that is read as it comes; leaving the block early ends the generation."""
        own = {
            "authorization": f"Bearer {self._token}",
            "content-type": "application/json",
            BEHALF_HEADER: key_id,
            **(headers or {}),
        }
        if request_id:
            own["x-request-id"] = request_id
        if is_batch:
            own[TIER_HEADER] = BATCH_TIER
        async with self.client.stream("POST", path, content=body, headers=own) as response:
            yield response


async def read_answer(response: httpx2.Response) -> Answer:
    """Reads an answer whole. Raises `TooLarge`."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise TooLarge(f"an answer is over {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
    after = response.headers.get("retry-after", "")
    request_id = response.headers.get("x-request-id", "")
    return Answer(response.status_code, request_id, b"".join(pieces), float(after) if after.isdigit() else 0.0)


def gateway_lost() -> Unavailable:
    """What a caller is told whose answer got lost between us and the gateway."""
    return Unavailable("the gateway was lost on the way", code="gateway_lost", hint="try again", retry_after_seconds=1)


def _trust(certificate: Path | None) -> ssl.SSLContext | bool:
    """TLS to our own socket trusts our own certificate, whatever name it is for."""
    if certificate is None:
        return True
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
