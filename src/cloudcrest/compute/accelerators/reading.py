"""What the readers of vendors' outputs share. Pure."""

import re
from collections.abc import Iterator

import msgspec

from cloudcrest.compute.accelerators.api import Detected
from cloudcrest.kernel.units import MIB

_NUMBER = re.compile(r"\d+")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")


def whole_number(text: str) -> int:
    """The first whole number in a text, 0 where there is none."""
    match = _NUMBER.search(text)
    return int(match.group()) if match else 0


def number(text: str) -> float | None:
    """The number that a text is; None where it is none: "N/A", "-"."""
    match = _DECIMAL.fullmatch(text.strip())
    return float(match.group()) if match else None


def fraction(percent: str) -> float | None:
    """From 0 to 1, of a number in percent."""
    found = number(percent)
    return None if found is None else min(found / 100, 1.0)


def in_bytes(text: str, unit_bytes: int = 1) -> int | None:
    """Bytes, of a number in a unit."""
    found = number(text)
    return None if found is None else round(found * unit_bytes)


def cells(output: str) -> Iterator[list[str]]:
    """The rows of a table drawn with `|`: the text of their cells. Rules and headings without cells are left out."""
    for line in output.splitlines():
        if "|" in line and not line.lstrip().startswith(("|-", "|=", "+")):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def json_object(output: str) -> dict[str, object]:
    """The JSON object in an output that may say something before it; empty where there is none."""
    start = output.find("{")
    if start < 0:
        return {}
    try:
        return msgspec.json.decode(output[start:], type=dict[str, object])
    except msgspec.DecodeError:
        return {}


def text_fields(value: object) -> dict[str, str]:
    """A JSON object's fields as text, names in lower case: their case changes between versions of a tool."""
    if not isinstance(value, dict):
        return {}
    return {str(name).lower(): str(field) for name, field in value.items()}


def two_row_table(output: str, *, card: re.Pattern[str], memory: re.Pattern[str]) -> tuple[Detected, ...]:
    """Of a table that has two rows a chip. `card` matches the first row (index, name), its cells joined by `|`;
    `memory` the second cell of the next (MiB in all).
    """
    found = []
    head: re.Match[str] | None = None
    for row in cells(output):
        starts = card.match("|".join(row))
        usage = memory.fullmatch(row[1]) if len(row) > 1 else None
        if starts is not None:
            head = starts
        elif head is not None and usage is not None:
            found.append(Detected(int(head.group(1)), head.group(2).strip(), int(usage.group(1)) * MIB))
            head = None
    return tuple(found)
