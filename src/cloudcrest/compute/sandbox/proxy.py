"""The way out of a sandbox: an HTTP proxy that connects to named hosts alone, and never into this network.

It resolves names itself and connects to the very address that it judged. `CONNECT host:port` for TLS, and plain
requests with a whole address; one request a connection. Everything is bounded: heads, connections, silence, and the
threads that look names up: who answers for a name may take his time.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.infra.outbound import OutboundPolicy, Resolve, permitted_addresses
from cloudcrest.kernel.errors import PermissionDenied

PORT = 3128
"""On the sandbox's loopback."""
MAX_CONNECTIONS = 64
_HEAD_BYTES = 16 * 1024
_HEAD_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_RESOLVE_SECONDS = 10.0
_RESOLVERS = 4
_SILENCE_SECONDS = 300.0
_PIECE_BYTES = 64 * 1024
_PLAIN_PORT, _TLS_PORT = 80, 443
Value = TypeVar("Value")


class AllowList:
    """Hosts, `*.` and a domain for all below it; with a port, or else the ports of HTTP and HTTPS."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = []
        for entry in entries:
            host, _, port = entry.lower().rpartition(":") if ":" in entry else (entry.lower(), "", "")
            self._entries.append((host.rstrip("."), {int(port)} if port else {_PLAIN_PORT, _TLS_PORT}))

    def has(self, host: str, port: int) -> bool:
        """Whether a host may be connected to on this port."""
        name = host.lower().rstrip(".")
        for entry, ports in self._entries:
            is_it = name.endswith(entry[1:]) and name != entry[2:] if entry.startswith("*.") else name == entry
            if is_it and port in ports:
                return True
        return False


class Silence:
    """How long nothing has passed through a connection, either way: who downloads for an hour says nothing meanwhile.

    `clock`: seconds, from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_seconds: float = _SILENCE_SECONDS) -> None:
        self._clock = clock
        self._most_seconds = most_seconds
        self._ends_at = clock() + most_seconds

    def broken(self) -> None:
        """Something has passed."""
        self._ends_at = self._clock() + self._most_seconds

    def left_seconds(self) -> float:
        """Until it has lasted too long; below 0 when it has."""
        return self._ends_at - self._clock()


class Proxy:
    """The proxy of one command. `resolve`: a host's addresses; threads of its own that ask the system, if not given.

    `sent_bytes`, `received_bytes`: what went to hosts and came from them, as they pass, without what this network adds.
    """

    def __init__(self, allowed: Sequence[str], policy: OutboundPolicy, resolve: Resolve | None = None) -> None:
        self._allowed = AllowList(allowed)
        self._policy = policy
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "proxy-resolver")
        self._resolve = resolve or self._ask_system
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent_bytes = self.received_bytes = 0

    async def serve(self, listening: socket.socket) -> None:
        """Answers on this socket until `close`."""
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=_HEAD_BYTES)

    async def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _ask_system(self, host: str, port: int) -> list[str]:
        def ask() -> list[str]:
            return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port)))

        return await asyncio.get_running_loop().run_in_executor(self._resolvers, ask)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs this in one
        self._tasks.add(task)
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                await _refuse(writer, 503, f"more than {MAX_CONNECTIONS} connections are open")
            else:
                await self._answer(reader, writer)
        except* (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one side is gone or silent, or said nothing that is HTTP
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        is_tunnel = method == "CONNECT"
        place = urlsplit(f"//{target}" if is_tunnel else target)
        host, port = place.hostname or "", place.port or (_TLS_PORT if is_tunnel else _PLAIN_PORT)
        if not is_tunnel and place.scheme != "http":
            await _refuse(writer, 400, "ask this proxy for whole http:// addresses, or by CONNECT")
            return
        if not self._allowed.has(host, port):
            await _refuse(writer, 403, f"{host}:{port} is not among the hosts this job may connect to (allowed_hosts)")
            return
        try:
            judged = permitted_addresses(host, port, self._policy, self._resolve)
            addresses = await asyncio.wait_for(judged, _RESOLVE_SECONDS)
            there = await self._connect(addresses, port)
        except PermissionDenied as error:
            await _refuse(writer, 403, error.message)
            return
        except (OSError, TimeoutError) as error:
            await _refuse(writer, 502, f"{host}:{port} does not answer: {str(error) or 'it takes too long'}")
            return
        with contextlib.closing(there[1]):
            if is_tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                inner_head = _plain_head(f"{method} {target} {version}", rest)
                self._sent(len(inner_head))
                there[1].write(inner_head)
            await self._pass(reader, writer, *there)

    async def _connect(self, addresses: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        last: OSError | TimeoutError = OSError("it has no address")
        for address in addresses:
            try:
                return await asyncio.wait_for(asyncio.open_connection(address, port), _CONNECT_SECONDS)
            except (OSError, TimeoutError) as error:
                last = error
        raise last

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        their_reader: asyncio.StreamReader,
        their_writer: asyncio.StreamWriter,
    ) -> None:
        """Both ways, until both have ended."""
        silence = Silence()
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, their_writer, silence, self._sent))
            both.create_task(copy(their_reader, writer, silence, self._received))

    def _sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes

    def _received(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes


def proxied(spec: SandboxSpec) -> SandboxSpec:
    """With variables that name the proxy to its programs; what the job sets itself holds."""
    address = f"http://127.0.0.1:{PORT}"
    names = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address)
    near = ",".join(("localhost", "127.0.0.1", *(spec.network.peers if spec.network is not None else ())))
    unproxied = {"no_proxy": near, "NO_PROXY": near}
    return msgspec.structs.replace(spec, environment={**names, **unproxied, **spec.environment})


async def copy(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    silence: Silence,
    passed: Callable[[int], None] = lambda _: None,
) -> None:
    """One way, until its end; `passed` is told how many bytes. Raises `TimeoutError` where neither way has had anything
    to say for too long.
    """
    while piece := await _within(silence, lambda: source.read(_PIECE_BYTES)):
        silence.broken()
        passed(len(piece))
        target.write(piece)
        await _within(silence, target.drain)
        silence.broken()
    with contextlib.suppress(OSError):
        target.write_eof()


async def _within(silence: Silence, step: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    while True:
        try:
            return await asyncio.wait_for(step(), silence.left_seconds())
        except TimeoutError:
            if silence.left_seconds() <= 0:  # else the other way has moved meanwhile
                raise


def _plain_head(line: str, rest: bytes) -> bytes:
    """The head for the host itself: the connection ends with its answer, and nothing is said of a proxy."""
    method, target, version = line.split(" ")
    place = urlsplit(target)
    inner = (place.path or "/") + (f"?{place.query}" if place.query else "")
    dropped = (b"proxy-", b"connection:", b"keep-alive:", b"host:")
    lines = [line for line in rest.split(b"\r\n") if line and not line.lower().startswith(dropped)]
    host = place.netloc.rpartition("@")[2]
    first = f"{method} {inner} {version}\r\nHost: {host}\r\nConnection: close".encode("latin-1")
    return b"\r\n".join([first, *lines]) + b"\r\n\r\n"


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    writer.write(
        b"HTTP/1.1 %d Refused\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b" % (status, len(body), body)
    )
    await writer.drain()
