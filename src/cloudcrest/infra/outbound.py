"""Calls to addresses that tenants or operators typed in: never into this network (SSRF).

The address is judged when the connection is made and that very address is connected to, so neither redirects nor a name
that resolves differently the second time (DNS rebinding) get around it. Proxies from the environment are not used: a
proxy would resolve the name itself.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Container, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore2
import httpx2

from cloudcrest.kernel.errors import PermissionDenied, SetupError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as text, best first. Raises `OSError`."""

_REFUSED = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a metadata service lives here
        "168.63.129.16/32",  # a metadata service on a public address
        "2001::/32",  # Teredo, hides an IPv4 address
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class OutboundPolicy:
    """Which addresses may be called: every public one, and what `allowed` names (hosts, addresses, networks).

    `own`: this machine's addresses, which are refused though they may be public: what listens there may take who comes
    from it for one of its own.
    """

    def __init__(self, allowed: Iterable[str] = (), *, own: Callable[[], Container[Address]] = frozenset) -> None:
        self._own = own
        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        for entry in allowed:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                if "/" in entry:
                    raise SetupError(f"'{entry}' is not a network", hint="write for example 10.1.0.0/16") from None
                self._hosts.add(entry.lower().rstrip("."))

    def permits(self, host: str, address: str) -> bool:
        """Whether `host`, resolved to `address`, may be called."""
        if host.lower().rstrip(".") in self._hosts:
            return True
        candidate = _unwrapped(ip_address(address.partition("%")[0]))
        if any(candidate in network for network in self._networks):
            return True
        is_public = candidate.is_global and not candidate.is_multicast and not candidate.is_reserved
        return is_public and candidate not in self._own() and not any(candidate in network for network in _REFUSED)


def guarded_client(
    policy: OutboundPolicy,
    *,
    timeout: httpx2.Timeout | None = None,
    limits: httpx2.Limits | None = None,
    resolve: Resolve | None = None,
) -> httpx2.AsyncClient:
    """An HTTP client that raises `PermissionDenied` rather than connect to an address the policy refuses."""
    transport = _GuardedTransport(policy, limits or httpx2.Limits(max_connections=100), resolve or resolve_host)
    return httpx2.AsyncClient(transport=transport, timeout=timeout or httpx2.Timeout(30.0), trust_env=False)


async def resolve_host(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def permitted_addresses(
    host: str, port: int, policy: OutboundPolicy, resolve: Resolve = resolve_host
) -> list[str]:
    """The host's addresses. One refused address refuses the host: it would be tried sooner or later.

    Raises `PermissionDenied`, and `OSError` where the name has none.
    """
    try:
        addresses = [str(ip_address(host))]
    except ValueError:
        addresses = await resolve(host, port)
    if not addresses or not all(policy.permits(host, address) for address in addresses):
        raise PermissionDenied(
            f"'{host}' is inside this network, which may not be called",
            code="address_not_allowed",
            hint="an operator can allow it with CLOUDCREST_ALLOWED_UPSTREAMS",
        )
    return addresses


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only carries it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses it has judged, never to a name. TLS still verifies the name: httpcore passes it on."""

    def __init__(self, policy: OutboundPolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await asyncio.wait_for(permitted_addresses(host, port, self._policy, self._resolve), timeout)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"resolving {host} took too long") from error
        except OSError as error:
            raise httpcore2.ConnectError(f"{host}: {error}") from error
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _GuardedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport over a pool that connects through the guard; httpx2 has no argument for a backend."""

    def __init__(self, policy: OutboundPolicy, limits: httpx2.Limits, resolve: Resolve) -> None:
        super().__init__(trust_env=False, limits=limits)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_GuardedBackend(policy, resolve),
        )
