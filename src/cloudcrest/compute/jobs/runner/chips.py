"""What a command gets of this node's chips: the variables that show it its own, and their device files."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cloudcrest.compute.accelerators.api import Family
from cloudcrest.compute.accelerators.device_files import DeviceFiles, look_for
from cloudcrest.compute.api import AcceleratorFacts


class GivenChips(msgspec.Struct, frozen=True):
    """Variables, and paths under /dev."""

    environment: dict[str, str] = {}
    devices: tuple[str, ...] = ()


class Chips:
    """`shown`: the variables that the node's agent has set, which count all its chips. `look`: finds their files."""

    def __init__(
        self,
        shown: Mapping[str, str],
        families: Mapping[str, Family],
        look: Callable[[Sequence[AcceleratorFacts]], DeviceFiles] = look_for,
    ) -> None:
        self._shown = dict(shown)
        self.families = families
        self._look = look

    async def given(self, chips: Sequence[AcceleratorFacts], *, has_view: bool) -> GivenChips:
        """What a command with these chips gets, with a view of /dev of its own or this node's."""
        if not chips or not has_view:
            return GivenChips(self._shown)
        found = await asyncio.to_thread(self._look, chips)
        environment = self._shown
        if found.are_counted_anew and chips[0].family in self.families:
            environment = {**self._shown, **self.families[chips[0].family].environment(range(len(chips)))}
        return GivenChips(environment, found.paths)
