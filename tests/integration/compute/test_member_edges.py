"""A member at its edges: stopped while it starts, and folders that cannot be made."""

import asyncio
from pathlib import Path

import pytest

from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.runner.member import Member
from cloudcrest.compute.jobs.running import Go, Stop
from cloudcrest.compute.sandbox.api import SandboxProcess, SandboxSpec
from cloudcrest.compute.sandbox.plain import PlainSandbox
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.kernel.clock import SystemClock
from tests.support.job_region import FOREVER
from tests.support.runners import spec
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


class _Slow(PlainSandbox):
    """As one that fetches an image first."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_go = asyncio.Event(), asyncio.Event()

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        self.is_asked.set()
        await self.may_go.wait()
        return await super().start(spec, output_fd)


def _member(folder: Path, sandbox: PlainSandbox) -> Member:
    return Member(folder / "member", sandbox, SystemClock(), RunSettings(), policy=OutboundPolicy())


async def test_one_that_is_stopped_while_it_starts_ends_when_it_has(tmp_path: Path) -> None:
    sandbox = _Slow()
    member = _member(tmp_path, sandbox)
    member.prepare(spec(FOREVER, grace_seconds=0.1))
    await until_async(lambda: member.phase == "ready", "it is ready")
    going = asyncio.create_task(member.go(Go({})))
    await sandbox.is_asked.wait()
    member.stop(Stop("cancelled", "by its owner"))
    sandbox.may_go.set()
    await going
    await until_async(lambda: member.phase == "ended", "it has ended")
    end = member.state().record.end
    assert end is not None
    assert end.kind == "cancelled"
    await member.settle()


async def test_output_folders_that_cannot_be_made_end_it_at_once(tmp_path: Path) -> None:
    member = _member(tmp_path, PlainSandbox())
    member.prepare(spec(FOREVER, outputs=("a" * 300,)))
    await until_async(lambda: member.phase == "ended", "it has ended")
    await member.settle()
