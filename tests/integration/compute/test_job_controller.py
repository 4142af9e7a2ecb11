"""Jobs in a region, with real runners and commands: to their end, whatever is killed on the way."""

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from cloudcrest.compute.api import ProcessSpec, ProcessStatus
from cloudcrest.compute.fakes import FakeMeter, FakeNodes, FakePlacer
from cloudcrest.compute.jobs.api import JobInput, JobReport, JobVolume
from cloudcrest.compute.jobs.running import RunRecord
from cloudcrest.compute.volumes.folders import VolumeFolders, data_folder
from tests.support.job_region import FOREVER, job, running_region
from tests.support.runners import python
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


async def test_a_job_runs_to_its_end(tmp_path: Path) -> None:
    volumes = VolumeFolders(tmp_path / "shared", most=5, most_bytes=10**9, now=lambda: 0.0)
    async with running_region(tmp_path) as region:
        volumes.create("proj_1", "models")
        await region.objects.put("files/proj_1/file_1", b"an input")
        code = (
            "import os; print(open('in.txt').read(), os.environ['KEY'], os.environ['CLOUDCREST_MEMBERS']);"
            "open(os.environ['CLOUDCREST_VOLUME_MODELS'] + '/made', 'w').write('in the volume');"
            "open('outputs/result', 'w').write('42')"
        )
        region.want(
            job(
                python(code),
                inputs=(JobInput("in.txt", file_id="file_1"),),
                volumes=(JobVolume("models", "/models"),),
                sealed_secrets={"KEY": "sealed"},
            )
        )
        report = await region.state("succeeded")
        assert report.attempt == 1
        assert report.has_outputs
        assert await region.log() == "an input opened sealed 1\n"
        manifest = await region.store.manifest("proj_1", "job_1")
        assert b"".join([piece async for piece in region.store.output(manifest["outputs/result"])]) == b"42"
        assert (data_folder(tmp_path / "shared", "proj_1", "models") / "made").read_text() == "in the volume"
        (closed,) = region.meter.closed.values()
        assert closed == (report.started_at, report.ended_at)
        assert set(region.meter.opened) == {"job_1-1-0"}
        assert await region.fabric.list() == []
        assert list((tmp_path / "work").iterdir()) == []
        assert region.placer.news("jobs").placed == ()
        assert "opened sealed" not in "".join(path.read_text() for path in (tmp_path / "jobs").iterdir())
        assert await region.store.report("proj_1", "job_1") == report
        # The control plane has it: the region forgets.
        region.documents.clear()
        region.want()
        await until_async(lambda: not region.reports, "it is forgotten")
        assert list((tmp_path / "jobs").iterdir()) == []


async def test_failures_are_tried_again_and_then_final(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        code = "import os, sys; print('attempt', os.environ['CLOUDCREST_ATTEMPT']); sys.exit(5)"
        region.want(job(python(code), retries=1))
        report = await region.state("failed")
        assert (report.attempt, report.failures, report.losses) == (2, 2, 0)
        assert [attempt.members[0].exit_code for attempt in report.attempts] == [5, 5]
        assert report.reason == "it exited with code 5"
        assert await region.log(attempt=2) == "attempt 2\n"
        assert set(region.meter.closed) == {"job_1-1-0", "job_1-2-0"}


async def test_a_job_that_its_nodes_disk_has_no_room_for_does_not_start_there(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        region.want(job(FOREVER, disk_bytes=2**60))

        def waiting() -> list[JobReport]:
            return [each for each in region.reports.values() if each.losses and each.state == "queued"]

        (report,) = await until_async(waiting, "it waits")
        assert "it asks for 1152921.5 TB of disk, and its node has" in report.reason
        assert report.started_at is None
        assert (report.failures, region.meter.opened) == (0, {})
        region.want(job(FOREVER, disk_bytes=2**60, is_cancelled=True))
        await region.state("cancelled")


async def test_a_cancelled_job_ends(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        region.want(job(FOREVER))
        await region.state("running")
        region.want(job(FOREVER, is_cancelled=True))
        report = await region.state("cancelled")
        assert report.started_at is not None
        assert report.attempts[0].outcome == "cancelled"
        assert await region.fabric.list() == []


async def test_a_job_ends_at_its_time_limit(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        region.want(job(FOREVER, time_limit_seconds=0.5))
        report = await region.state("timed_out")
        assert "time limit" in report.reason


async def test_a_gang_has_all_its_members_or_none(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        code = (
            "import os, sys, time; member = os.environ['CLOUDCREST_MEMBER'];"
            "print(member, os.environ['CLOUDCREST_PEERS'], flush=True);"
            "sys.exit(3) if member == '1' else time.sleep(600)"
        )
        region.want(job(python(code), members=3))
        report = await region.state("failed")
        assert report.reason == "it exited with code 3"
        assert len(report.attempts[0].members) == 3
        assert all(member.ended_at is not None for member in report.attempts[0].members)
        assert await region.log(member=2) == "2 127.0.0.1,127.0.0.1,127.0.0.1\n"
        assert len(region.meter.closed) == 3


async def test_a_preempted_job_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys, time
kept = pathlib.Path(os.environ['CLOUDCREST_CHECKPOINTS']) / 'step'
if kept.exists():
    print('goes on from', kept.read_text()); sys.exit(0)
def save(*_):
    kept.write_text('17'); sys.exit(0)
signal.signal(signal.SIGTERM, save)
print('begins', flush=True)
time.sleep(600)
"""
    async with running_region(tmp_path) as region:
        region.want(job(python(code), has_checkpoints=True))
        await region.state("running")
        await until_async(region.log, "it has begun")
        region.placer.preempt("job_1", "a job of higher priority needs its place")
        report = await region.state("succeeded")
        assert (report.attempt, report.preemptions, report.failures) == (2, 1, 0)
        assert report.attempts[0].reason == "a job of higher priority needs its place"
        assert await region.log(attempt=2) == "goes on from 17\n"


async def test_a_new_controller_adopts_what_runs(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    code = (
        f"import pathlib, time; print('begins', flush=True); there = pathlib.Path({str(go_on)!r})\n"
        "while not there.exists(): time.sleep(0.02)\n"
        "print('goes on')"
    )
    async with running_region(tmp_path) as region:
        region.want(job(python(code)))
        begun = await region.state("running")
        pid = (await region.runner()).pid
        await region.stop()
        region.start()
        await until_async(lambda: region.placer.adopted, "it is adopted")
        assert (await region.runner()).pid == pid
        go_on.touch()
        report = await region.state("succeeded")
        assert (report.attempt, report.started_at) == (1, begun.started_at)
        assert await region.log() == "begins\ngoes on\n"


async def test_an_end_that_nobody_saw_is_learnt_later(tmp_path: Path) -> None:
    go_on, record = tmp_path / "go-on", tmp_path / "work" / "job_1-1-0" / "record.json"
    code = f"import pathlib, time\nwhile not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)"
    async with running_region(tmp_path) as region:
        region.want(job(python(code)))
        await region.state("running")
        await region.stop()
        go_on.touch()
        await until_async(lambda: msgspec.json.decode(record.read_bytes(), type=RunRecord).end, "it has ended")
        region.start()
        report = await region.state("succeeded")
        assert report.attempt == 1


async def test_a_killed_runner_is_a_loss_and_charged_to_its_last_mark(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        region.want(job(FOREVER))
        await region.state("running")
        first = await region.runner()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)

        await until_async(lambda: region.reports["job_1"].attempt == 2, "it is tried again")
        report = await region.state("running")
        assert (report.losses, report.failures) == (1, 0)
        assert report.attempts[0].outcome == "lost"
        member = report.attempts[0].members[0]
        assert region.meter.closed["job_1-1-0"] == (member.started_at, member.ended_at)
        assert member.ended_at is not None


class Silent(FakeNodes):
    """A fabric whose processes run and never answer."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, ProcessSpec] = {}

    async def start(self, spec: ProcessSpec) -> None:
        self.specs[spec.id] = spec

    async def list(self) -> list[ProcessStatus]:
        return [ProcessStatus(spec.id, "running", 1, spec.labels, node_id=spec.node_id) for spec in self.specs.values()]

    async def stop(self, process_id: str) -> None:
        self.specs.pop(process_id, None)


async def test_a_job_of_a_lost_node_goes_on_elsewhere(tmp_path: Path) -> None:
    # Nobody answers on either node: what is silent on a node that is there is waited for.
    fabric, placer = Silent(), FakePlacer(("a", "b"))
    async with running_region(tmp_path, placer, fabric=fabric) as region:
        region.want(job(FOREVER))
        first = await region.state("placing")
        assert first.attempts[0].members[0].node_id == "a"
        placer.lost.add("a")
        await until_async(lambda: region.reports["job_1"].attempt == 2, "it is tried again")
        report = region.reports["job_1"]
        assert (report.losses, report.failures) == (1, 0)
        assert report.attempts[0].outcome == "lost"
        assert report.attempts[1].members[0].node_id == "b"
        assert region.meter.closed["job_1-1-0"] == (None, None)
        assert {*fabric.specs} == {"job_1-2-0"}


async def test_a_budget_that_ends_ends_the_job(tmp_path: Path) -> None:
    async with running_region(tmp_path, meter=FakeMeter(seconds=0.5)) as region:
        region.want(job(FOREVER))
        report = await region.state("failed")
        assert report.reason == "the project's budget is spent"
        assert report.started_at is not None


async def test_without_a_budget_nothing_starts(tmp_path: Path) -> None:
    async with running_region(tmp_path, meter=FakeMeter(seconds=0)) as region:
        region.want(job((sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')")))
        report = await region.state("failed")
        assert report.started_at is None
        assert not (tmp_path / "ran").exists()


async def test_what_waits_says_why(tmp_path: Path) -> None:
    async with running_region(tmp_path, placer=FakePlacer(most=1)) as region:
        region.want(job(FOREVER), job(FOREVER, "job_2"))
        await region.state("running")
        await until_async(lambda: region.reports["job_2"].reason == "needs 1 node; all are taken", "it says why")
        region.want(job(FOREVER, is_cancelled=True))
        await region.state("running", job_id="job_2")


async def test_a_missing_volume_or_file_is_said(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region:
        region.want(
            job(("true",), volumes=(JobVolume("none", "/none"),)),
            job(("true",), "job_2", inputs=(JobInput("x", file_id="file_of_another"),)),
        )
        assert "there is no volume 'none'" in (await region.state("failed")).reason
        assert "file_of_another" in (await region.state("failed", job_id="job_2")).reason
