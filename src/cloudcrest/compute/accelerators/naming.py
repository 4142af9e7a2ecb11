"""From what a vendor's tool calls a chip to a type of the catalog. Pure."""

import re
from collections.abc import Iterable, Sequence

from cloudcrest.compute.api import AcceleratorFacts, AcceleratorType
from cloudcrest.kernel.units import GIB

MAX_NAME_CHARACTERS = 100
_MEMORY_TOLERANCE = 0.12
"""Tools leave out what ECC and firmware keep: 94 of 96 GB, 23,308 of 24,576 MiB."""
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")
_NOISE = re.compile(r"\((?:r|tm|c)\)", re.IGNORECASE)


def type_id_of(family: str, name: str, memory_bytes: int, types: Sequence[AcceleratorType]) -> str:
    """The type that a chip is of: one of the family and name whose memory is nearest, or a made one's id."""
    wanted = _plain(name)
    alike = [
        each
        for each in types
        if each.family == family
        and wanted in {_plain(known) for known in (each.name, *each.names)}
        and (memory_bytes == 0 or abs(each.memory_bytes - memory_bytes) <= _MEMORY_TOLERANCE * each.memory_bytes)
    ]
    if alike:
        return min(alike, key=lambda each: (abs(each.memory_bytes - memory_bytes), each.id)).id
    return made_type(family, name, memory_bytes).id


def made_type(family: str, name: str, memory_bytes: int) -> AcceleratorType:
    """A type from facts alone: `nvidia`, "NVIDIA RTX A5000", 24 GB → `nvidia-rtx-a5000-24gb`."""
    words = _plain(name).split()
    if words and words[0] == family:
        words = words[1:]
    gigabytes = f"{round(memory_bytes / GIB)}gb" if memory_bytes else ""
    if words and words[-1] == gigabytes:
        gigabytes = ""
    type_id = "-".join(part for part in (family, *words, gigabytes) if part)[:MAX_NAME_CHARACTERS].strip("-")
    shown = name[:MAX_NAME_CHARACTERS] or family
    return AcceleratorType(type_id, family, shown, memory_bytes, names=(shown,))


def unknown_types(facts: Iterable[AcceleratorFacts], known: Iterable[str]) -> dict[str, AcceleratorType]:
    """A type made for each that was detected and is not known, by id."""
    ids = {*known}
    made: dict[str, AcceleratorType] = {}
    for each in facts:
        if each.type not in ids and each.type not in made:
            fresh = made_type(each.family, each.name, each.memory_bytes)
            made[each.type] = AcceleratorType(
                each.type, fresh.family, fresh.name, fresh.memory_bytes, names=fresh.names
            )
    return made


def _plain(name: str) -> str:
    return _NOT_IN_IDS.sub(" ", _NOISE.sub(" ", name.lower())).strip()
