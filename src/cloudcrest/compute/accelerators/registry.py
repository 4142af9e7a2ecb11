"""The families there are: those of this package, and what others add by entry point."""

from collections.abc import Callable
from importlib.metadata import entry_points

import structlog

from cloudcrest.compute.accelerators.amd import Amd
from cloudcrest.compute.accelerators.api import ENTRY_POINT_GROUP, Family
from cloudcrest.compute.accelerators.apple import Apple
from cloudcrest.compute.accelerators.ascend import Ascend
from cloudcrest.compute.accelerators.cambricon import Cambricon
from cloudcrest.compute.accelerators.hygon import Hygon
from cloudcrest.compute.accelerators.iluvatar import Iluvatar
from cloudcrest.compute.accelerators.intel import Intel
from cloudcrest.compute.accelerators.metax import MetaX
from cloudcrest.compute.accelerators.moore_threads import MooreThreads
from cloudcrest.compute.accelerators.nvidia import Nvidia

BUILT_IN: tuple[Callable[[], Family], ...] = (
    Nvidia,
    Amd,
    Ascend,
    Cambricon,
    Hygon,
    MetaX,
    MooreThreads,
    Iluvatar,
    Intel,
    Apple,
)
_log = structlog.get_logger(__name__)


def families() -> dict[str, Family]:
    """Every family by its name. What is added under a name that there is takes its place."""
    found = {family.name: family for family in (create() for create in BUILT_IN)}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            family: Family = entry.load()()
            name = family.name
        except Exception as error:  # noqa: BLE001 - a stranger's fault must not keep a node from starting
            _log.error("accelerator_family_not_loaded", entry_point=f"{entry.name} = {entry.value}", exc_info=error)
            continue
        found[name] = family
    return found
