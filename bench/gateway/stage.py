"""What is put under load: this gateway with everything on, and nginx as a plain reverse proxy, before fake replicas."""

import hashlib
import http.client
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.gateway.bank import balance, bank, key_budget, prices
from bench.gateway.machine import GATEWAY_CORE, LOAD_CORE, free_port, pinned, running
from cloudcrest.billing.periods import BudgetDocument
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.identity.api import (
    KEY_KIND,
    ORGANIZATION_KIND,
    PROJECT_KIND,
    KeyDocument,
    Limits,
    OrganizationDocument,
    ProjectDocument,
)
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.feed_client import save_state
from cloudcrest.infra.settings import encode_path
from cloudcrest.serving.api import ROUTE_KIND, ReplicaEndpoint, RouteDocument

MODEL = "fake"
KEY = "sk-cc-" + "b" * 43
NGINX = "nginx"
KEYS = 10_000
KEYS_PER_ORGANIZATION = 100
START_SECONDS = 60.0
_AMPLE = Limits(requests_per_minute=1_000_000_000, tokens_per_minute=1_000_000_000_000, concurrent_requests=100_000)


@dataclass(frozen=True)
class Target:
    """One gateway under load. `first_answer_seconds`: from its process's start to its first answered chat."""

    name: str
    port: int
    pid: int
    first_answer_seconds: float
    path: str = "/v1/chat/completions"
    model: str = MODEL
    key: str = KEY

    def request(self, *, is_stream: bool = False, padding_bytes: int = 0) -> bytes:
        """A whole chat request for it."""
        return chat_request(self, is_stream=is_stream, padding_bytes=padding_bytes)


def chat_request(target: Target, *, is_stream: bool, padding_bytes: int) -> bytes:
    """The bytes of one chat request."""
    padding = ("lorem ipsum dolor sit amet " * (padding_bytes // 27 + 1))[:padding_bytes]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"Write a short paragraph about the history of Lisbon and its harbour. {padding}"},
    ]
    body = {"model": target.model, "messages": messages, "max_tokens": 256, "temperature": 0.7, "stream": is_stream}
    data = json.dumps(body).encode()
    head = (
        f"POST {target.path} HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
        f"content-type: application/json\r\nuser-agent: bench\r\naccept: */*\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


@contextmanager
def upstream(program: Path, log: Path, *, replicas: int, chunks: int, pace_microseconds: int) -> Iterator[list[int]]:
    """The fake replicas' ports."""
    ports = log.with_suffix(".ports")
    ports.unlink(missing_ok=True)
    argv = pinned(LOAD_CORE, program, str(replicas), str(chunks), str(pace_microseconds))
    with running(argv, ports):
        _until(lambda: ports.exists() and ports.read_text().endswith("\n"), "the fake upstream did not start")
        yield [int(port) for port in ports.read_text().split()]


@contextmanager
def cloudcrest(
    folder: Path,
    replica_ports: Sequence[int],
    name: str = "cloudcrest",
    packages: Path | None = None,
    poll_seconds: float = 0.0,
) -> Iterator[Target]:
    """One worker with 10,000 limited keys, balances, a budget, several replicas, a durable spool, ids and metrics.

    `packages`: where the package is taken from, in place of the one that is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / "feed.json", feed(replica_ports))
    argv = pinned(
        GATEWAY_CORE,
        sys.executable,
        "-m",
        "cloudcrest.bootstrap",
        "gateway",
        "--settings",
        folder / "settings.json",
    )
    with ExitStack() as stack:
        port = free_port()
        settings = GatewaySettings(
            name="bench",
            region="local",
            spool_folder=folder / "spool",
            feed_state_path=folder / "feed.json",
            grants_url=stack.enter_context(bank()),
            feed_token=KEY,
            port=port,
            log_level="WARNING",
            poll_seconds=poll_seconds,
        )
        (folder / "settings.json").write_bytes(msgspec.json.encode(settings, enc_hook=encode_path))
        began = time.monotonic()
        environment = None if packages is None else os.environ | {"PYTHONPATH": str(packages)}
        pid = stack.enter_context(running(argv, folder / "log", environment))
        seconds = first_answer(name, port, began)
        stack.enter_context(_shipped(folder / "spool"))
        yield Target(name, port, pid, seconds)


@contextmanager
def nginx(folder: Path, replica_ports: Sequence[int]) -> Iterator[Target]:
    """One worker that passes everything through, with keep-alive on both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{replica};" for replica in replica_ports)
    scratch = " ".join(
        f"{what}_temp_path {folder / what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = f"""
        worker_processes 1; daemon off; pid {folder / "pid"}; error_log {folder / "log"};
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 1000000000; client_body_buffer_size 256k; {scratch}
            upstream replicas {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_buffering off;
                }}
            }}
        }}"""
    (folder / "nginx.conf").write_text(configuration)
    began = time.monotonic()
    argv = pinned(GATEWAY_CORE, "nginx", "-c", folder / "nginx.conf")
    with running(argv, folder / "log") as pid:
        yield Target(NGINX, port, pid, first_answer(NGINX, port, began))


@contextmanager
def floor(folder: Path, replica_ports: Sequence[int]) -> Iterator[Target]:
    """A proxy on the event loop's own transports that looks at nothing, before one replica."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    began = time.monotonic()
    argv = pinned(GATEWAY_CORE, sys.executable, "-m", "bench.gateway.floor", str(port), str(replica_ports[0]))
    with running(argv, folder / "log") as pid:
        yield Target("bare loop", port, pid, first_answer("the bare loop", port, began))


def first_answer(name: str, port: int, began: float, **of_target: Any) -> float:
    """Seconds from `began` until a chat was answered."""
    target = Target(name, port, 0, 0.0, **of_target)

    def answers() -> bool:
        head, _, body = target.request().partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", target.path, body, headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    _until(answers, f"{name} did not answer")
    return time.monotonic() - began


def has_nginx() -> bool:
    """Whether the yardstick is there."""
    return shutil.which("nginx") is not None


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    ends = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(otherwise)
        time.sleep(0.005)


def feed(replica_ports: Sequence[int], keys: int = KEYS) -> FeedState:
    """What the region tells a worker: keys of several organizations, all limited, and one model."""
    documents: dict[str, dict[str, Any]] = {}

    def add(kind: str, document_id: str, document: msgspec.Struct) -> None:
        documents.setdefault(kind, {})[document_id] = msgspec.to_builtins(document)

    def hold(held: tuple[str, BudgetDocument]) -> None:
        add(held[0], held[1].id, held[1])

    for number in range(keys):
        organization, project, key = (
            f"{prefix}_{index:026d}"
            for prefix, index in (("org", number // KEYS_PER_ORGANIZATION), ("proj", number), ("key", number))
        )
        if number % KEYS_PER_ORGANIZATION == 0:
            add(ORGANIZATION_KIND, organization, OrganizationDocument(organization, limits=_AMPLE))
            hold(balance(organization))
        add(PROJECT_KIND, project, ProjectDocument(project, organization))
        secret = KEY if number == 0 else f"sk-cc-{number:043d}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        add(KEY_KIND, key, KeyDocument(key, digest, project, organization, limits=_AMPLE))
        if number == 0:
            hold(key_budget(organization, project, key))
    kind, cards = prices(MODEL)
    add(kind, MODEL, cards)
    replicas = tuple(
        ReplicaEndpoint(f"rep_{index:026d}", f"http://127.0.0.1:{port}", "replica-token", slots=256)
        for index, port in enumerate(replica_ports)
    )
    route = RouteDocument(MODEL, f"dep_{0:026d}", "chat", "llamacpp", 8192, replicas, 0)
    add(ROUTE_KIND, MODEL, route)
    return FeedState("1", documents)


@contextmanager
def _shipped(spool: Path) -> Iterator[None]:
    """Stands in for the shipper: full segments go away, so that a benchmark does not fill the disk."""
    told_to_stop = threading.Event()

    def ship() -> None:
        while not told_to_stop.wait(1.0):
            for worker in spool.iterdir():
                for segment in sorted(worker.glob("*.seg"))[:-2]:
                    segment.unlink(missing_ok=True)

    thread = threading.Thread(target=ship, daemon=True)
    thread.start()
    try:
        yield
    finally:
        told_to_stop.set()
        thread.join()
        shutil.rmtree(spool, ignore_errors=True)
