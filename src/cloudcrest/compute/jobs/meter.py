"""Where nobody charges for compute."""

from cloudcrest.compute.jobs.api import MeteredMember


class FreeOfCharge:
    """Implements `compute.jobs.api.JobMeter`: every budget covers what costs nothing."""

    async def open(self, member: MeteredMember) -> None:
        """It may start."""

    async def mark(self, member: MeteredMember, started_at: float, until: float) -> None:
        """It may go on."""

    async def close(self, member: MeteredMember, started_at: float | None, ended_at: float | None) -> None:
        """It is over."""
