"""This machine as a node: what it is called and what it has."""

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil
import structlog

from cloudcrest.compute.accelerators.api import Family, Tools
from cloudcrest.compute.accelerators.cpu import cpu_model
from cloudcrest.compute.accelerators.detect import detect
from cloudcrest.compute.accelerators.given_out import visible_environment
from cloudcrest.compute.accelerators.naming import TypeIndex
from cloudcrest.compute.api import AcceleratorFacts, AcceleratorType, NodeFacts
from cloudcrest.compute.fabric.cgroup_limits import cgroup_limits
from cloudcrest.compute.jobs.runner.disk import DiskRoom, disk_room
from cloudcrest.kernel.clock import Clock

_log = structlog.get_logger(__name__)
NODE_ID = "local"
HOSTNAME_LABEL = "cloudcrest.io/hostname"
REFRESH_SECONDS = 600.0
"""Chips come and go with a driver's fault or a new one, not by the minute."""


class Machine:
    """What this machine has. Its chips are looked for once, before the first answer, and seldom again.

    Chips are given out by their place in the list, so it stays as it was: one that answers no longer makes the node not
    ready, and one that is new is taken up at the next start. `types` name the chips; `families` are asked for them
    through `tools`. `members`: where jobs of this node have their folders. Looking blocks a thread, never the loop.
    """

    def __init__(
        self,
        *,
        families: Mapping[str, Family],
        tools: Tools,
        clock: Clock,
        types: Iterable[AcceleratorType] = (),
        refresh_seconds: float = REFRESH_SECONDS,
        members: Path | None = None,
    ) -> None:
        self._families = families
        self._tools = tools
        self._clock = clock
        self._types = TypeIndex(types)
        self._refresh_seconds = refresh_seconds
        self._members = members
        self._again: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._looks = 0
        self._accelerators: tuple[AcceleratorFacts, ...] = ()
        self._cpu_model = ""
        self._reason: str | None = None

    async def facts(self) -> NodeFacts:
        """The node that this machine is. Only the first look is waited for: a driver that hangs later holds up none."""
        await self._looked_once()
        again = self._again
        if again is not None and again.done() and self._clock.monotonic() - self._looked_at >= self._refresh_seconds:
            self._looked_at = self._clock.monotonic()
            self._again = asyncio.create_task(self._look())
        disk = await self._disk()
        return msgspec.structs.replace(
            this_machine(),
            disk_bytes=disk.size_bytes,
            disk_room_bytes=disk.room_bytes,
            accelerators=self._accelerators,
            cpu_model=self._cpu_model,
            is_ready=self._reason is None,
            reason=self._reason,
        )

    async def environment(self, chosen: Sequence[int]) -> dict[str, str]:
        """The variables for a process that is given these accelerators. Raises `InvalidInput` where there is one
        that this node does not give out.
        """
        await self._looked_once()
        return visible_environment(self._accelerators, chosen, self._families)

    async def _disk(self) -> DiskRoom:
        if self._members is not None:
            try:
                return await asyncio.to_thread(disk_room, self._members)
            except OSError as error:
                _log.warning("disk_not_known", folder=str(self._members), error=str(error))
        return DiskRoom(0, 0)

    async def _looked_once(self) -> None:
        if self._again is None:
            self._looked_at = self._clock.monotonic()
            self._again = asyncio.create_task(self._look())
        if self._looks == 0:
            await asyncio.shield(self._again)

    async def _look(self) -> None:
        found, self._cpu_model = await asyncio.to_thread(self._ask)
        self._accelerators = self._accelerators or found
        self._reason = _missing(self._accelerators, found)
        self._looks += 1

    def _ask(self) -> tuple[tuple[AcceleratorFacts, ...], str]:
        return detect(self._families.values(), self._tools, self._types), cpu_model(self._tools)


def this_machine() -> NodeFacts:
    """The node that the local fabric is, without its accelerators. A container has what its cgroup lets it have."""
    limits = cgroup_limits()
    memory_bytes, cpu_milli = int(psutil.virtual_memory().total), 1000 * _cpus()
    return NodeFacts(
        id=NODE_ID,
        address="127.0.0.1",
        cpu_milli=min(cpu_milli, limits.cpu_milli or cpu_milli),
        memory_bytes=min(memory_bytes, limits.memory_bytes or memory_bytes),
        labels={HOSTNAME_LABEL: socket.gethostname()},
    )


def _missing(before: Sequence[AcceleratorFacts], now: Sequence[AcceleratorFacts]) -> str | None:
    """What no longer answers, in a sentence."""
    there = {(each.family, each.index, each.uuid) for each in now}
    gone = [each for each in before if (each.family, each.index, each.uuid) not in there]
    if not gone:
        return None
    names = ", ".join(f"{each.name} {each.index}" for each in gone[:3])
    return f"{len(gone)} of {len(before)} accelerators no longer answer ({names}): restart the node or its driver"


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
