"""Addresses of machines: IPv4 and IPv6."""

import ipaddress
import re
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_IPV4 = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f:]{0,38}:)[0-9A-Fa-f:]{4,39}(?![0-9A-Za-z])")
_VERSION = re.compile(r"(?:\bversion|\bver\b|\bv|\brelease|==|>=)[^0-9\n]{0,3}$")


def addresses(segment: Segment) -> Iterator[Hit]:
    """Addresses of one machine; not the unspecified one, nor what looks like a version."""
    text = segment.text
    patterns = [_IPV4] if text.count(".") >= 3 else []
    if text.count(":") >= 2:
        patterns.append(_IPV6)
    for pattern in patterns:
        for match in pattern.finditer(text):
            written = match[0].rstrip(":") if not match[0].endswith("::") else match[0]
            try:
                address = ipaddress.ip_address(written)
            except ValueError:
                continue
            if not address.is_unspecified and not _VERSION.search(segment.context(match.start())):
                yield Hit(
                    match.start(), match.start() + len(written), "ip_address", f"IPv{address.version} address", 0.8
                )
