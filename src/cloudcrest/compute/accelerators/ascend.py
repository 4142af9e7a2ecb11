"""Huawei Ascend NPUs, through `npu-smi`."""

import re
from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import ChipUse, Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import cells, fraction, number
from cloudcrest.kernel.units import MIB

QUERY = ("npu-smi", "info")
_CARD = re.compile(r"\d+\s+(\S+)")
_BUS = re.compile(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")


class Ascend:
    """Chips, of which a card may have two. Implements `Family`."""

    name = "ascend"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `npu-smi`."""
        return parse(tools.run(*QUERY) or "")

    def measure(self, tools: Tools) -> tuple[ChipUse, ...]:
        """Asks `npu-smi`: the table that tells what there is tells what it does."""
        return parse_use(tools.run(*QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """What CANN's runtime goes by."""
        return {"ASCEND_RT_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str) -> tuple[Detected, ...]:
    """Of the table of `npu-smi info`, two rows a chip: the card's name, then the chip with its bus and memory.

    The runtime counts chips in the order of the table, whatever their cards are numbered. Memory is the last usage
    that is not of 0: HBM, or on chips without it the one before.
    """
    found: list[Detected] = []
    name = ""
    for row in cells(output):
        card = _CARD.fullmatch(row[0]) if row else None
        if len(row) >= 3 and _BUS.fullmatch(row[1]):
            totals = [int(total) for _, total in _USAGE.findall(row[2]) if int(total)]
            memory_bytes = totals[-1] * MIB if totals else 0
            found.append(Detected(len(found), name or "Ascend", memory_bytes))
        elif card is not None:
            name = card.group(1)
    return tuple(found)


def parse_use(output: str) -> tuple[ChipUse, ...]:
    """Of the same table: power stands in a chip's first row, beside its card (of two chips, with the first alone);
    AI cores and memory in its second.
    """
    found: list[ChipUse] = []
    watts: float | None = None
    for row in cells(output):
        if len(row) >= 3 and _BUS.fullmatch(row[1]):
            used = [int(used) for used, total in _USAGE.findall(row[2]) if int(total)]
            busy = fraction(row[2].split()[0]) if row[2] else None
            found.append(ChipUse(len(found), "", busy, used[-1] * MIB if used else None, watts))
            watts = None
        elif len(row) >= 3 and _CARD.fullmatch(row[0]):
            watts = number(row[2].split()[0]) if row[2] else None
    return tuple(found)
