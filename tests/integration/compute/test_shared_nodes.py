"""Jobs and replicas on the same nodes, by one live placer: real agents, real runners, real replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from cloudcrest.compute.fakes import FakeMeter
from cloudcrest.compute.placement.placer import LivePlacer
from cloudcrest.serving.api import Placement
from cloudcrest.serving.fakes import FakeArtifacts
from tests.support.job_region import FOREVER, job
from tests.support.job_region import Region as Jobs
from tests.support.nodes import ManyNodes, many_nodes, node
from tests.support.region import Region, live_placer
from tests.support.replicas import deployment
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def jobs_over(fabric: ManyNodes, placer: LivePlacer, folder: Path) -> AsyncIterator[Jobs]:
    """Jobs, and the placer at work for them."""
    (folder / "shared").mkdir()
    jobs = Jobs(folder, fabric, placer, FakeMeter())
    placing = asyncio.create_task(placer.run())
    try:
        yield jobs
    finally:
        await jobs.stop()
        placing.cancel()
        await asyncio.gather(placing, return_exceptions=True)
        await jobs.client.aclose()


async def test_a_job_of_a_zone_that_is_lost_goes_on_in_another(tmp_path: Path) -> None:
    async with (
        many_nodes(node("a1", zone="a"), node("b1", zone="b")) as fabric,
        jobs_over(fabric, live_placer(fabric), tmp_path) as jobs,
    ):
        jobs.want(job(FOREVER))
        first = (await jobs.state("running")).attempts[-1].members[0].node_id
        await fabric.kill(first)

        def elsewhere() -> bool:
            report = jobs.reports["job_1"]
            return report.state == "running" and report.attempts[-1].members[0].node_id not in ("", first)

        await until_async(elsewhere, f"it runs elsewhere: {jobs.reports}")
        assert (jobs.reports["job_1"].attempt, jobs.reports["job_1"].losses) == (2, 1)


async def test_a_replica_gets_a_jobs_accelerator_and_the_job_goes_on_when_it_is_free_again(tmp_path: Path) -> None:
    wanted = msgspec.structs.replace(
        deployment("simulated", options={"answer_tokens": 5}), placement=Placement(accelerators=1)
    )
    async with many_nodes(node("a1", accelerators=1)) as fabric:
        placer = live_placer(fabric)
        serving = Region(fabric, FakeArtifacts(tmp_path / "m.gguf"), tmp_path)
        async with jobs_over(fabric, placer, tmp_path) as jobs, serving.running(placer=placer) as controller:
            jobs.want(job(FOREVER, accelerators=1))
            await jobs.state("running")
            controller.update([wanted], [])
            await serving.endpoint()
            waiting = await jobs.state("preempted")
            assert waiting.attempts[-1].outcome == "preempted"
            assert "rep_" not in waiting.attempts[-1].reason
            why = "needs 1 accelerator free on one node; best node has 0"
            await until_async(lambda: why in jobs.reports["job_1"].reason, f"it says why it waits: {jobs.reports}")
            controller.update([], [])
            assert (await jobs.state("running")).attempt == 2
