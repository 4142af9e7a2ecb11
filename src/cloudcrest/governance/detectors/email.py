"""E-mail addresses, as people write them (not all that RFC 5321 allows)."""

import re
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")
_MAX_LOCAL = 64
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9])"
)


def emails(segment: Segment) -> Iterator[Hit]:
    """Local part, @, and a domain that ends in letters: `react@18.2.0` is none, and so is `git@host:repository`."""
    text = segment.text
    at = text.find("@")
    while at >= 0:
        start = at
        while start > 0 and at - start < _MAX_LOCAL and text[start - 1] in _LOCAL:
            start -= 1
        while start < at and text[start] in ".-%":
            start += 1
        domain = _DOMAIN.match(text, at + 1)
        if domain is not None and start < at and not _is_remote(text, start, at, domain.end()):
            yield Hit(start, domain.end(), "email", "e-mail address", 0.95)
        at = text.find("@", at + 1)


def _is_remote(text: str, start: int, at: int, end: int) -> bool:
    return text[start:at] == "git" and text.startswith(":", end)
