"""From what a vendor's tool calls a chip to a type of the catalog. Pure."""

import re
from collections.abc import Iterable

from cloudcrest.compute.api import AcceleratorFacts, AcceleratorType
from cloudcrest.kernel.units import GIB

MAX_NAME_CHARACTERS = 100
_MEMORY_TOLERANCE = 0.12
"""Tools leave out what ECC and firmware keep: 94 of 96 GB, 23,308 of 24,576 MiB."""
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")
_NOISE = re.compile(r"\((?:r|tm|c)\)", re.IGNORECASE)


class TypeIndex:
    """The types of a catalog by what vendors' tools call them."""

    def __init__(self, types: Iterable[AcceleratorType] = ()) -> None:
        self._by_id: dict[str, AcceleratorType] = {}
        self._by_name: dict[tuple[str, str], list[AcceleratorType]] = {}
        for each in types:
            self._by_id[each.id] = each
            for name in {_plain(known) for known in (each.name, *each.names)}:
                self._by_name.setdefault((each.family, name), []).append(each)

    def find(self, type_id: str) -> AcceleratorType | None:
        """The type of this id."""
        return self._by_id.get(type_id)

    def id_of(self, family: str, name: str, memory_bytes: int) -> str:
        """The type that a chip is of: one of the family and name whose memory is nearest, or a made one's id."""
        alike = [
            each
            for each in self._by_name.get((family, _plain(name)), ())
            if memory_bytes == 0 or abs(each.memory_bytes - memory_bytes) <= _MEMORY_TOLERANCE * each.memory_bytes
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
    if gigabytes in words:
        gigabytes = ""
    type_id = "-".join(part for part in (family, *words, gigabytes) if part)[:MAX_NAME_CHARACTERS].strip("-")
    shown = name[:MAX_NAME_CHARACTERS] or family
    return AcceleratorType(type_id, family, shown, memory_bytes, names=(shown,))


def unknown_types(facts: Iterable[AcceleratorFacts], known: TypeIndex) -> dict[str, AcceleratorType]:
    """A type made for each chip that is of none in the catalog, by id."""
    made: dict[str, AcceleratorType] = {}
    for family, name, memory_bytes in {(each.family, each.name, each.memory_bytes) for each in facts}:
        type_id = known.id_of(family, name, memory_bytes)
        if known.find(type_id) is None:
            made[type_id] = made_type(family, name, memory_bytes)
    return made


def _plain(name: str) -> str:
    return _NOT_IN_IDS.sub(" ", _NOISE.sub(" ", name.lower())).strip()
