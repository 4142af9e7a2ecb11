"""The proxy that is a command's way out: names that change their mind, redirects, silence, and ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address

import pytest

from cloudcrest.compute.sandbox.proxy import MAX_CONNECTIONS, Proxy, Silence, copy
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
INSIDE = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")


def names(**table: Sequence[str]) -> Callable[[str, int], object]:
    """A resolver that gives each name its next answer, the last one for ever."""
    left = {name: list(answers) for name, answers in table.items()}

    async def resolve(host: str, _: int) -> list[str]:
        answers = left[host]
        return (answers.pop(0) if len(answers) > 1 else answers[0]).split()

    return resolve


@contextlib.asynccontextmanager
async def serving(proxy: Proxy) -> AsyncIterator[int]:
    """The proxy on a port of this machine's loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    await proxy.serve(listening)
    try:
        yield listening.getsockname()[1]
    finally:
        await proxy.close()


@contextlib.asynccontextmanager
async def web(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a server that says `answer` to each request, and the heads that it was sent."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


async def ask(port: int, head: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"\r\n\r\n")
    answer = b""
    with contextlib.suppress(ConnectionError):  # it may close before it has read everything
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    proxy = Proxy(["evil.example"], OutboundPolicy(), names(**{"evil.example": [f"93.184.216.34 {address}"]}))  # type: ignore[arg-type]
    async with serving(proxy) as port:
        for head in ("CONNECT evil.example:443 HTTP/1.1", "GET http://evil.example/ HTTP/1.1"):
            assert (await ask(port, head)).startswith(b"HTTP/1.1 403 ")


async def test_a_name_of_the_node_itself_is_refused() -> None:
    policy = OutboundPolicy(own=lambda: {ip_address("93.184.216.34")})
    here = names(**{"node.example": ["93.184.216.34"]})
    async with serving(Proxy(["node.example", "93.184.216.34"], policy, here)) as port:  # type: ignore[arg-type]
        for host in ("node.example", "93.184.216.34"):
            assert (await ask(port, f"CONNECT {host}:443 HTTP/1.1")).startswith(b"HTTP/1.1 403 ")


async def test_a_name_that_changes_its_mind_is_connected_to_where_it_was_judged() -> None:
    async with web(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (their_port, heads):
        here = names(**{"evil.example": ["127.0.0.1", "127.0.0.2"]})
        proxy = Proxy([f"evil.example:{their_port}"], OutboundPolicy(["127.0.0.1/32"]), here)  # type: ignore[arg-type]
        async with serving(proxy) as port:
            first = await ask(port, f"GET http://evil.example:{their_port}/a HTTP/1.1\r\nHost: other\r\nProxy-Auth: x")
            second = await ask(port, f"GET http://evil.example:{their_port}/b HTTP/1.1")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 403 ")
    assert heads == [f"GET /a HTTP/1.1\r\nHost: evil.example:{their_port}\r\nConnection: close\r\n\r\n".encode()]


async def test_what_goes_out_and_comes_in_is_counted() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    async with web(answer) as (their_port, heads):
        proxy = Proxy([f"127.0.0.1:{their_port}"], OutboundPolicy(["127.0.0.1"]))
        async with serving(proxy) as port:
            await ask(port, f"GET http://127.0.0.1:{their_port}/ HTTP/1.1")
            assert (proxy.sent_bytes, proxy.received_bytes) == (len(heads[0]), len(answer))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT 127.0.0.1:{their_port} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == answer
            writer.close()
            await ask(port, "GET http://elsewhere.example/ HTTP/1.1")  # refused: nothing went out
    assert heads[1] == b"GET / HTTP/1.1\r\n\r\n"
    assert (proxy.sent_bytes, proxy.received_bytes) == (len(heads[0] + heads[1]), 2 * len(answer))


async def test_a_redirect_is_handed_on_and_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/\r\ncontent-length: 0\r\n\r\n"
    async with web(moved) as (their_port, heads):
        proxy = Proxy([f"127.0.0.1:{their_port}"], OutboundPolicy(["127.0.0.1"]))
        async with serving(proxy) as port:
            assert await ask(port, f"GET http://127.0.0.1:{their_port}/ HTTP/1.1") == moved
            there = await ask(port, "GET http://169.254.169.254/latest/ HTTP/1.1")
    assert there.startswith(b"HTTP/1.1 403 ")
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("head", "starts"),
    [
        ("CONNECT pypi.org:22 HTTP/1.1", b"HTTP/1.1 403 "),
        ("CONNECT pypi.org:5432 HTTP/1.1", b"HTTP/1.1 403 "),
        ("GET http://pypi.org:22/ HTTP/1.1", b"HTTP/1.1 403 "),
        ("GET http://pypi.org@evil.example/ HTTP/1.1", b"HTTP/1.1 403 "),
        ("GET http://evil.example#pypi.org/ HTTP/1.1", b"HTTP/1.1 403 "),
        ("GET file:///etc/passwd HTTP/1.1", b"HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nHost: pypi.org", b"HTTP/1.1 400 "),
        ("CONNECT pypi.org:99999 HTTP/1.1", b""),
        ("CONNECT pypi.org:443", b""),
        ("X" * 20_000, b""),
    ],
)
async def test_what_is_not_on_the_list_or_is_no_request_is_refused(head: str, starts: bytes) -> None:
    async with serving(Proxy(["pypi.org"], OutboundPolicy(), names())) as port:  # type: ignore[arg-type]
        answer = await ask(port, head)
    assert answer.startswith(starts)
    assert bool(answer) == bool(starts)


async def test_connections_are_bounded_and_end_with_the_proxy() -> None:
    async with serving(Proxy(["pypi.org"], OutboundPolicy(), names())) as port:  # type: ignore[arg-type]
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]

        async def one_more() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # says nothing: it is refused at once
            answer = await reader.readline()
            writer.close()
            return answer.startswith(b"HTTP/1.1 503 ")

        await until_async(one_more, "one too many is refused")
    for reader, writer in held:
        assert await reader.read() == b""
        writer.close()


async def test_who_is_silent_while_the_other_way_moves_is_not_cut_off() -> None:
    now = [0.0]
    looks = 0
    enough = asyncio.Event()

    def clock() -> float:
        nonlocal looks
        looks += 1
        if looks > 6:
            enough.set()
        return now[0]

    silence = Silence(clock, most_seconds=0.001)  # by this clock it does not pass
    source = asyncio.StreamReader()
    async with web(b"") as (port, _):
        _, target = await asyncio.open_connection("127.0.0.1", port)
        copying = asyncio.create_task(copy(source, target, silence))
        await enough.wait()  # its waits have ended, and it waits again
        assert not copying.done()
        now[0] = 1.0
        with pytest.raises(TimeoutError):
            await copying
        target.close()
    silence.broken()
    assert silence.left_seconds() > 0
