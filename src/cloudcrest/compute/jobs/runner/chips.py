"""What a command gets of this node's chips: the variables that show it its own, and their device files."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cloudcrest.compute.accelerators.api import DeviceFiles, Family, WithDevices
from cloudcrest.compute.accelerators.device_files import look_for, told_by
from cloudcrest.compute.api import AcceleratorFacts


class GivenChips(msgspec.Struct, frozen=True):
    """Variables, paths under /dev, and folders of /sys that are shown."""

    environment: dict[str, str] = {}
    devices: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


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
        family = self.families.get(chips[0].family)
        if isinstance(family, WithDevices):
            found = await asyncio.to_thread(told_by, family, chips)
        else:
            found = await asyncio.to_thread(self._look, chips)
        environment = self._shown
        if found.are_counted_anew and family is not None:
            environment = {**self._shown, **family.environment(range(len(chips)))}
        return GivenChips(environment, found.paths, found.shown)
