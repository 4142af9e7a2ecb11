"""Following the region's feed, living without it, and the process as it is started."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest

from cloudcrest.infra.feed import Document, FeedPage
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    Received,
    ScriptedUpstream,
    feed_state,
    json_answer,
    route_document,
    running_gateway,
)

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
HEADERS = {"authorization": f"Bearer {KEY}"}


class Region:
    """A feed: hands out what it is told to, each follower once."""

    def __init__(self) -> None:
        self.pages: asyncio.Queue[FeedPage] = asyncio.Queue()

    async def __call__(self, request: Received) -> None:
        assert "authorization: Bearer feed-token" in request.head
        page = await self.pages.get()
        json_answer(msgspec.to_builtins(page))(request)


async def test_a_key_revoked_in_the_feed_stops_working_and_survives_a_restart(tmp_path: Path) -> None:
    feed = Region()
    async with ScriptedUpstream(json_answer(COMPLETION)) as engine, ScriptedUpstream(feed) as region:
        state = feed_state([route_document(urls=(engine.url,))])
        settings = {"feed_url": region.url + "/internal/v1/feed", "feed_token": "feed-token"}
        async with (
            running_gateway(tmp_path, state, **settings) as running,
            httpx2.AsyncClient(base_url=running.url, trust_env=False) as client,
        ):
            assert (await client.post(CHAT, json=HELLO, headers=HEADERS)).status_code == 200
            feed.pages.put_nowait(FeedPage("test.2", [Document("key", "key_test", None)]))

            async with asyncio.timeout(1):
                while (await client.post(CHAT, json=HELLO, headers=HEADERS)).status_code != 401:
                    pass
            region.stop()
            others = {"authorization": "Bearer sk-cc-other"}
            assert (await client.get("/v1/models", headers=others)).status_code == 200
        saved = json.loads((tmp_path / "feed.json").read_bytes())
        assert saved["cursor"] == "test.2"
        assert "key_test" not in saved["documents"]["key"]


async def test_the_process_serves_from_disk_without_a_region_and_ends_when_told(tmp_path: Path) -> None:
    from cloudcrest.infra.feed_client import save_state

    async with ScriptedUpstream(json_answer(COMPLETION)) as engine:
        save_state(tmp_path / "feed.json", feed_state([route_document(urls=(engine.url,))]))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            settings = {
                "name": "gateway-0",
                "region": "local",
                "listen_fd": listener.fileno(),
                "spool_folder": str(tmp_path / "spool"),
                "feed_state_path": str(tmp_path / "feed.json"),
                "feed_url": "http://127.0.0.1:9/internal/v1/feed",
                "drain_seconds": 1,
            }
            (tmp_path / "settings.json").write_text(json.dumps(settings))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cloudcrest.bootstrap",
                "gateway",
                "--settings",
                str(tmp_path / "settings.json"),
                pass_fds=(listener.fileno(),),
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
            try:
                async with httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False
                ) as client:
                    response = await client.post(CHAT, json=HELLO, headers=HEADERS)
                assert response.json() == COMPLETION
                records = "".join(path.read_text("latin-1") for path in (tmp_path / "spool").rglob("*.seg"))
                assert records.count(response.headers["x-request-id"]) == 2
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(20):
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def test_tls(tmp_path: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths = {"tls_certificate_path": tmp_path / "cert.pem", "tls_key_path": tmp_path / "key.pem"}
    async with ScriptedUpstream(json_answer(COMPLETION)) as engine:
        state = feed_state([route_document(urls=(engine.url,))])
        async with running_gateway(tmp_path, state, **paths) as running:
            url = running.url.replace("http:", "https:")
            async with httpx2.AsyncClient(base_url=url, verify=False, trust_env=False) as client:
                for _ in range(3):
                    assert (await client.post(CHAT, json=HELLO, headers=HEADERS)).json() == COMPLETION
                oversized = await client.post(CHAT, json=HELLO, headers=HEADERS | {"x": "a" * 40_000})
                assert oversized.status_code == 431
