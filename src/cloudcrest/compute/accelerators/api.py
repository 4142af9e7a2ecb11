"""What a family of chips is. Others add one by an entry point of the group `cloudcrest.accelerators`."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from cloudcrest.compute.api import AcceleratorFacts

ENTRY_POINT_GROUP = "cloudcrest.accelerators"
NONE_VISIBLE = "-1"
"""An index that none has: runtimes end the list there. An empty value is taken by some for "all"."""


class Detected(msgspec.Struct, frozen=True):
    """One chip, as its vendor's tool tells. `index` is what the family's variable calls it."""

    index: int
    name: str
    memory_bytes: int
    uuid: str = ""


class ChipUse(msgspec.Struct, frozen=True):
    """What one chip does: how much of the time it computes, from 0 to 1, its memory, what it draws. None: not known."""

    index: int
    uuid: str = ""
    utilization: float | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None


class DeviceFiles(msgspec.Struct, frozen=True):
    """Paths of character devices. `is_narrow`: there is no other chip's among them. `are_counted_anew`: to whom has
    these alone, the family's runtime counts its chips from 0. `shown`: folders of /sys that the runtime reads.
    """

    paths: tuple[str, ...] = ()
    is_narrow: bool = True
    are_counted_anew: bool = False
    shown: tuple[str, ...] = ()


class Tools(Protocol):
    """What detection may use of a machine. Every call is bounded in time and output, and none raises."""

    def run(self, *argv: str) -> str | None:
        """What a command prints; None where there is no such command, or it fails."""
        ...

    def read(self, path: str) -> str | None:
        """A file's text, None where it cannot be read."""
        ...

    def system(self) -> str:
        """The operating system: Linux, Darwin."""
        ...


class Family(Protocol):
    """One vendor's chips. `detect` asks the machine through `tools` and leaves the reading to a pure function."""

    @property
    def name(self) -> str:
        """A short name: "nvidia"."""
        ...

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """The chips of this machine, none where there are none or their tool is not installed."""
        ...

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """The variables that show a process these chips and hide the family's others; all of them for none."""
        ...


@runtime_checkable
class Measuring(Family, Protocol):
    """A family whose tool tells what its chips are doing. One without it is shown as not known."""

    def measure(self, tools: Tools) -> tuple[ChipUse, ...]:
        """All of this machine's, none where their tool does not answer. It is asked every few seconds."""
        ...


@runtime_checkable
class WithDevices(Family, Protocol):
    """A family that says which device files its chips have. Jobs in a view of their own get none of one without it."""

    def device_files(self, chips: Sequence[AcceleratorFacts], there: Sequence[str]) -> DeviceFiles:
        """Of the character devices of this node (`there`, below /dev), those that who has these chips is to open."""
        ...


def index_list(visible: Sequence[int]) -> str:
    """`[0, 2]` → `"0,2"`, nothing → an index that none has."""
    return ",".join(map(str, visible)) or NONE_VISIBLE
