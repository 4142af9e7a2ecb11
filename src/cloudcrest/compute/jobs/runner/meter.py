"""What a member uses: now, at most, and over its run. Kept here alone, and gone with the runner."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from cloudcrest.compute.accelerators.api import ChipUse, Family, Measuring, Tools
from cloudcrest.compute.accelerators.tools import MachineTools
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.jobs.running import MemberMetrics, Sample
from cloudcrest.compute.sandbox.api import SandboxUsage
from cloudcrest.kernel.clock import Clock

MEASURE_CHIPS_SECONDS = 10.0
FIRST_SPACING_SECONDS = 10.0
MAX_SAMPLES = 120
_log = structlog.get_logger(__name__)


class Meter:
    """One member's. Its samples are `spacing` seconds apart; when there are too many every second one goes and the
    spacing doubles, so that they always cover the whole run.
    """

    def __init__(self, clock: Clock, families: Mapping[str, Family], tools: Tools | None = None) -> None:
        self._clock = clock
        self._families = families
        self._tools = tools or MachineTools()
        self._began: float | None = None
        self._now = MemberMetrics()
        self._samples: list[Sample] = []
        self._spacing_seconds = FIRST_SPACING_SECONDS

    def metrics(self, *, has_history: bool = False) -> MemberMetrics:
        """As last measured."""
        return msgspec.structs.replace(self._now, history=tuple(self._samples)) if has_history else self._now

    def used(self, usage: SandboxUsage) -> None:
        """Takes what its sandbox says."""
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
        before, ran = self._now, now - self._began
        passed = ran - before.seconds
        self._now = msgspec.structs.replace(
            before,
            seconds=round(ran, 3),
            # Processes that have gone take their counters along.
            cpu_cores=round(max(usage.cpu_seconds - before.cpu_seconds, 0.0) / passed, 3) if passed > 0 else 0.0,
            cpu_seconds=usage.cpu_seconds,
            memory_bytes=usage.memory_bytes,
            memory_peak_bytes=usage.memory_peak_bytes,
            processes=usage.processes,
            sent_bytes=usage.sent_bytes,
            received_bytes=usage.received_bytes,
        )
        if not self._samples or ran - self._samples[-1].seconds >= self._spacing_seconds:
            self._samples.append(_sample(self._now))
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._spacing_seconds *= 2

    def holds(self, disk_bytes: int) -> None:
        """Takes what its work folder holds."""
        self._now = msgspec.structs.replace(self._now, disk_bytes=disk_bytes)

    async def watch_chips(self, chips: Sequence[AcceleratorFacts]) -> None:
        """Asks its chips' tool again and again; ends at once where the family's tells nothing."""
        self._now = msgspec.structs.replace(self._now, accelerators=tuple(_unknown(chip) for chip in chips))
        family = self._families.get(chips[0].family) if chips else None
        if not isinstance(family, Measuring):
            return
        while True:
            try:
                found = await asyncio.to_thread(family.measure, self._tools)
                self._now = msgspec.structs.replace(self._now, accelerators=own_use(chips, found))
            except Exception as error:  # noqa: BLE001 - a family may be a stranger's: its fault is no fault of the job
                _log.warning("chips_not_measured", family=chips[0].family, exc_info=error)
            await asyncio.sleep(MEASURE_CHIPS_SECONDS)


def own_use(chips: Sequence[AcceleratorFacts], found: Sequence[ChipUse]) -> tuple[ChipUse, ...]:
    """Of all of a node's those of these chips, by their ids, else by their indexes; not known where there is none."""
    by_uuid = {each.uuid: each for each in found if each.uuid}
    by_index = {each.index: each for each in found}
    # Where both have ids and they differ, another chip has come into that place.
    return tuple(
        by_uuid.get(chip.uuid)
        or (_unknown(chip) if chip.uuid and by_uuid else by_index.get(chip.index, _unknown(chip)))
        for chip in chips
    )


def _unknown(chip: AcceleratorFacts) -> ChipUse:
    return ChipUse(chip.index, chip.uuid)


def _sample(now: MemberMetrics) -> Sample:
    return Sample(
        now.seconds,
        now.cpu_seconds,
        now.memory_bytes,
        now.disk_bytes,
        now.sent_bytes,
        now.received_bytes,
        now.accelerators,
    )
