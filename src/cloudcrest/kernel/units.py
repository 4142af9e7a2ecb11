"""Sizes as people write them."""

import re

from cloudcrest.kernel.errors import InvalidInput

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str, *, field: str = "size") -> int:
    """`'4GiB'` → 4294967296, `'4GB'` → 4000000000, `'512'` → 512. Raises `InvalidInput`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidInput(f"'{text}' is not a size; write for example 512MB or 4GiB", param=field)
    number, letter, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[letter.lower()])


def format_bytes(size_bytes: float) -> str:
    """`98362432` → `'98.4 MB'` (decimal units, as download pages have them)."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
