"""This machine's own addresses, on whichever interface."""

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil


def own_addresses() -> frozenset[IPv4Address | IPv6Address]:
    """As they are now: they come and go."""
    found = set()
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            with contextlib.suppress(ValueError):  # of another layer
                found.add(ip_address(each.address.partition("%")[0]))
    return frozenset(found)
