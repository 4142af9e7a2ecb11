"""Apple's GPUs, through `system_profiler`."""

import re
from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools
from cloudcrest.compute.accelerators.reading import whole_number

DISPLAYS = ("system_profiler", "SPDisplaysDataType")
MEMORY = ("sysctl", "-n", "hw.memsize")
_CHIPSET = re.compile(r"^\s*Chipset Model:\s*(\S.*?)\s*$", re.MULTILINE)


class Apple:
    """The GPU of an M chip. It shares the machine's memory, which is what it is said to have. Implements `Family`."""

    name = "apple"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks macOS."""
        if tools.system() != "Darwin":
            return ()
        return parse(tools.run(*DISPLAYS) or "", whole_number(tools.run(*MEMORY) or ""))

    def environment(self, visible: Sequence[int]) -> dict[str, str]:  # noqa: ARG002 - the family's interface
        """macOS has no variable for this: there is one GPU, and every process sees it."""
        return {}


def parse(displays: str, memory_bytes: int) -> tuple[Detected, ...]:
    """Of the report as text. Graphics of other makers in older machines are left out."""
    for name in _CHIPSET.findall(displays):
        if name.startswith("Apple "):
            return (Detected(0, name, memory_bytes),)
    return ()
