"""Detection: every family is asked, and what it finds is named by the catalog of types."""

from collections.abc import Iterable

import structlog

from cloudcrest.compute.accelerators.api import Family, Tools
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import AcceleratorFacts

MAX_PER_NODE = 256
_log = structlog.get_logger(__name__)


def detect(families: Iterable[Family], tools: Tools, types: TypeIndex) -> tuple[AcceleratorFacts, ...]:
    """The accelerators of this machine, at most `MAX_PER_NODE`. Blocks for as long as vendors' tools take."""
    found: list[AcceleratorFacts] = []
    for family in families:
        try:
            chips = family.detect(tools)
        except Exception as error:  # noqa: BLE001 - one family's fault must not hide the others' chips
            _log.error("accelerators_not_detected", family=family.name, exc_info=error)
            continue
        for chip in chips:
            type_id = types.id_of(family.name, chip.name, chip.memory_bytes)
            found.append(
                AcceleratorFacts(chip.index, family.name, type_id, chip.name, chip.memory_bytes, uuid=chip.uuid)
            )
    return tuple(found[:MAX_PER_NODE])
