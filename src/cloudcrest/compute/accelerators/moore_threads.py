"""Moore Threads GPUs, through `mthreads-gmi`."""

import re
from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools, index_list
from cloudcrest.kernel.units import MIB

QUERY = ("mthreads-gmi",)
_GPU = re.compile(r"^\s*(\d+)\s+(\S[^|]*?)\s*\|[0-9a-fA-F]{8}:\S+\s*\|\s*\d+%\s+\d+MiB\((\d+)MiB\)", re.MULTILINE)


class MooreThreads:
    """Implements `Family`."""

    name = "moore-threads"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `mthreads-gmi`."""
        return parse(tools.run(*QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """What MUSA's runtime goes by."""
        return {"MUSA_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str) -> tuple[Detected, ...]:
    """Of the table: a GPU's first line has its number, name, bus and memory, used and in all."""
    return tuple(Detected(int(index), name, int(memory_mib) * MIB) for index, name, memory_mib in _GPU.findall(output))
