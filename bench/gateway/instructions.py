"""Instructions that the gateway's own code takes for a request, counted by valgrind: the same on a busy machine.

    python -m bench.gateway.instructions [--profile FILE] [KIND …]

A whole worker's parts in one process, with everything on, between sockets that only remember what was written. Each
kind of work is counted twice, a little of it and a lot, and the difference is divided: starting up cancels out.
"""

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec

from bench.gateway.measure import BIG_PROMPT_BYTES
from bench.gateway.stage import MODEL, Target, chat_request, feed
from cloudcrest.billing.grants import Grant, GrantsAnswer, GrantsRequest
from cloudcrest.gateway.connection import UpstreamConnection
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.server import Gateway
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.infra.feed_client import save_state
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.metering.spool import SpoolWriter

FEW, MANY = 100, 600
KINDS = ("plain", "prompt", "stream", "chunk")
_TEXT = "Lisbon lies at the mouth of the Tagus. " * 20
_COUNTED = re.compile(r"Collected : (\d+)")


class Transport:
    """A socket's stand-in: what is written is kept until it is looked at."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Worker:
    """One, between stand-ins for a client and its replicas."""

    def __init__(self, gateway: Gateway) -> None:
        self.upstreams: list[tuple[UpstreamConnection, list[bytes]]] = []
        for route in gateway.snapshot.deployments.values():
            for replica in route.replicas:
                connection, transport = UpstreamConnection(replica, 8), Transport()
                connection.connection_made(cast(asyncio.Transport, transport))
                replica.idle.append(connection)
                self.upstreams.append((connection, transport.written))
        client, transport = ServerConnection(gateway.state), Transport()
        client.connection_made(cast(asyncio.Transport, transport))
        self.client, self.answers = client, transport.written
        self.rounds = gateway.state.rounds

    async def ask(self, request: bytes) -> UpstreamConnection:
        """Sends a request in; the connection that it is passed on by, at once or when its budget is there."""
        self.client.data_received(request)
        while True:
            self.rounds.flush()
            for connection, written in self.upstreams:
                if written:
                    written.clear()
                    return connection
            await asyncio.sleep(0.001)

    def answered(self) -> bytes:
        """What came back, which is then forgotten."""
        self.rounds.flush()
        answer = b"".join(self.answers)
        self.answers.clear()
        return answer


async def _grant(message: bytes) -> bytes:
    """Everything that is wished for."""
    request = msgspec.json.decode(message, type=GrantsRequest)
    grants = tuple(
        Grant(ask.grant_id, ask.scope, request.holder, ask.wanted, ask.ends_at_microseconds) for ask in request.asks
    )
    return msgspec.json.encode(GrantsAnswer(grants))


@contextlib.asynccontextmanager
async def _worker(folder: Path) -> AsyncIterator[Worker]:
    save_state(folder / "feed.json", feed((1, 2, 3, 4), keys=100))
    spool = SpoolWriter(folder / "spool", "bench", sync_interval_seconds=3600.0, segment_bytes=64 * 1024 * 1024)
    settings = GatewaySettings(
        name="bench", region="local", spool_folder=folder / "spool", feed_state_path=folder / "feed.json"
    )
    gateway = Gateway(settings, spool, SystemClock(), "bench")
    desk = asyncio.create_task(gateway.desk.run(_grant))
    try:
        yield Worker(gateway)
    finally:
        desk.cancel()


async def work(kind: str, count: int, folder: Path) -> None:
    """So much of one kind of work."""
    target = Target("bench", 1, 0, 0.0)
    padding_bytes = BIG_PROMPT_BYTES if kind == "prompt" else 0
    request = chat_request(target, is_stream=kind in {"chunk", "stream"}, padding_bytes=padding_bytes)
    answer = _whole_answer()
    async with _worker(folder) as worker:
        if kind == "chunk":
            connection = await worker.ask(request)
            connection.data_received(_STREAM_HEAD)
            for _ in range(count):
                connection.data_received(_CHUNK)
                worker.answered()
            return
        for number in range(count):
            connection = await worker.ask(request)
            for data in _SHORT_STREAM if kind == "stream" else (answer,):
                connection.data_received(data)
            if not worker.answered().startswith(b"HTTP/1.1 200 "):
                raise RuntimeError("the request was not answered")
            if number % 64 == 0:
                await asyncio.sleep(0)


def _whole_answer() -> bytes:
    message = {"role": "assistant", "content": _TEXT}
    body = msgspec.json.encode({
        "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_700_000_000, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 42, "completion_tokens": 200, "total_tokens": 242},
    })  # fmt: skip
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    event = {
        "id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": MODEL,
        "choices": choices,
    }  # fmt: skip
    return b"data: %b\n\n" % msgspec.json.encode(event | more)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_CHUNK = _chunk(_event([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]))
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_SHORT_STREAM = (
    _STREAM_HEAD,
    _CHUNK,
    _chunk(
        _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        + _event([], usage={"prompt_tokens": 42, "completion_tokens": 1, "total_tokens": 43})
        + b"data: [DONE]\n\n"
    )
    + b"0\r\n\r\n",
)


def instructions(kind: str, count: int, profile: Path) -> int:
    """Of a process that starts up and does so much."""
    argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", sys.executable, "-m", __spec__.name]
    with tempfile.TemporaryDirectory(prefix="bench-instructions-") as folder:
        done = subprocess.run([*argv, "--work", kind, str(count), folder], capture_output=True, text=True, check=False)
    found = _COUNTED.search(done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"it did not run: {done.stderr[-2_000:]}")
    return int(found[1])


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway.instructions", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kinds", nargs="*", default=KINDS, help=", ".join(KINDS))
    parser.add_argument("--profile", type=Path, help="where callgrind's output goes, less what KIND was")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        kind, count, folder = arguments.work
        asyncio.run(work(kind, int(count), Path(folder)))
        return
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind (Debian, Ubuntu: apt install valgrind)")
    for kind in arguments.kinds:
        profile = Path("/dev/null") if arguments.profile is None else arguments.profile.with_suffix(f".{kind}")
        few = instructions(kind, FEW, Path("/dev/null"))
        many = instructions(kind, MANY, profile)
        per = (many - few) / (MANY - FEW)
        print(f"{kind:<8}{per:>12,.0f} instructions")


if __name__ == "__main__":
    main()
