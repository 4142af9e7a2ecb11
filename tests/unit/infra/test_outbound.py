"""Outbound calls stay out of this network, whatever name or redirect leads there."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx2
import pytest

from cloudcrest.infra.interfaces import own_addresses
from cloudcrest.infra.outbound import OutboundPolicy, guarded_client
from cloudcrest.kernel.errors import PermissionDenied, SetupError


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "224.0.0.1", "255.255.255.255", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1"),
    ],
)
def test_internal_addresses_are_refused(address: str) -> None:
    assert not OutboundPolicy().permits("example.com", address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert OutboundPolicy().permits("example.com", address)


def test_an_operator_can_allow_hosts_and_networks() -> None:
    policy = OutboundPolicy(["10.1.0.0/16", "Models.internal", "127.0.0.1"])
    assert policy.permits("x", "10.1.2.3")
    assert not policy.permits("x", "10.2.2.3")
    assert policy.permits("models.INTERNAL.", "10.2.2.3")
    assert policy.permits("localhost", "127.0.0.1")
    assert policy.permits("localhost", "::ffff:127.0.0.1")
    with pytest.raises(SetupError, match="is not a network"):
        OutboundPolicy(["10.1.0.0/99"])


def test_this_machines_own_addresses_are_refused_though_they_are_public(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found(NamedTuple):
        address: str

    there = {"eth0": [Found("93.184.216.34"), Found("2606:4700:4700::1111%eth0"), Found("02:fc:00:00:00:01")]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: there)
    policy = OutboundPolicy(own=own_addresses)
    for address in ("93.184.216.34", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2606:4700:4700::1111"):
        assert not policy.permits("example.com", address)
        assert OutboundPolicy().permits("example.com", address)
        assert OutboundPolicy(["example.com"], own=own_addresses).permits("example.com", address)
    assert policy.permits("example.com", "93.184.216.35")
    there["eth1"] = [Found("93.184.216.35")]  # as one comes later
    assert not policy.permits("example.com", "93.184.216.35")


@pytest.fixture
async def port(anyio_backend: str) -> AsyncIterator[int]:
    """A server on loopback: it answers 200, or redirects to itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while await reader.readline() != b"\r\n":
            pass
        target = b"location: http://inside.example:%d/end\r\n" % own_port
        head = b"HTTP/1.1 302 Found\r\n" + target if b"/redirect" in line else b"HTTP/1.1 200 OK\r\n"
        writer.write(head + b"content-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    own_port: int = server.sockets[0].getsockname()[1]
    async with server:
        yield own_port


@pytest.mark.anyio
async def test_a_name_that_leads_inside_is_refused_when_connecting(port: int) -> None:
    async def resolve(host: str, _: int) -> list[str]:
        return ["127.0.0.1"]

    async with guarded_client(OutboundPolicy(), resolve=resolve) as client:
        with pytest.raises(PermissionDenied, match="inside this network") as caught:
            await client.get(f"http://rebound.example:{port}/")
    assert caught.value.code == "address_not_allowed"


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f.1", "127.1"])
async def test_spellings_of_loopback_are_refused(port: int, host: str) -> None:
    async with guarded_client(OutboundPolicy()) as client:
        with pytest.raises((PermissionDenied, httpx2.ConnectError)):
            await client.get(f"http://{host}:{port}/")


@pytest.mark.anyio
async def test_a_redirect_inside_is_refused_and_an_allowed_host_is_reached(port: int) -> None:
    async def resolve(host: str, _: int) -> list[str]:
        return ["127.0.0.1"]

    async with guarded_client(OutboundPolicy(["allowed.example"]), resolve=resolve) as client:
        assert (await client.get(f"http://allowed.example:{port}/")).status_code == 200
        with pytest.raises(PermissionDenied):
            await client.get(f"http://allowed.example:{port}/redirect", follow_redirects=True)


@pytest.mark.anyio
async def test_one_inside_address_among_public_ones_refuses_the_host() -> None:
    async def resolve(host: str, _: int) -> list[str]:
        return ["1.1.1.1", "10.0.0.1"]

    async with guarded_client(OutboundPolicy(), resolve=resolve) as client:
        with pytest.raises(PermissionDenied):
            await client.get("http://mixed.example/")


@pytest.mark.anyio
async def test_a_name_without_address_is_a_connection_error() -> None:
    async def resolve(host: str, _: int) -> list[str]:
        raise OSError("no such host")

    async with guarded_client(OutboundPolicy(), resolve=resolve) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://missing.example/")
