"""What is kept of outputs: of every member its own, and no more than the job may leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from cloudcrest.compute.jobs.api import JobDocument
from cloudcrest.compute.jobs.collect import Collector
from cloudcrest.compute.jobs.entry import Entry, MemberEntry
from cloudcrest.compute.jobs.link import LogChunk, RunnerLink
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import Output, Outputs
from cloudcrest.compute.jobs.store import JobStore
from cloudcrest.compute.jobs.sweep import Sweeper
from cloudcrest.infra.objects import ObjectStore

pytestmark = pytest.mark.anyio


class _Runners:
    """Runners whose output files are their process's name and a number."""

    def __init__(self) -> None:
        self.names = ("a",)

    async def log(self, *_: object) -> LogChunk:
        return LogChunk(0, b"", False)

    async def outputs(self, member: MemberEntry) -> Outputs:
        await asyncio.sleep(0)
        return Outputs(tuple(Output(name, len(member.process_id), "1") for name in self.names), 0)

    @asynccontextmanager
    async def output(self, member: MemberEntry, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            await asyncio.sleep(0)
            yield member.process_id.encode()

        assert name in self.names
        yield pieces()


def _entry(members: int, job_id: str = "job_1") -> Entry:
    document = JobDocument(
        id=job_id,
        organization_id="org_1",
        project_id="proj_1",
        region="local",
        name="a",
        command=("true",),
        created_at_unix_seconds=0.0,
        cpu_milli=1000,
        memory_bytes=1,
        members=members,
    )
    entry = Entry(document, 0.0)
    entry.attempt = 1
    entry.members = [MemberEntry(f"member-{number}", "n", ()) for number in range(members)]
    return entry


async def test_members_that_are_collected_at_once_keep_their_own(tmp_path: Any) -> None:
    store, entry = JobStore(ObjectStore(str(tmp_path))), _entry(8)
    collector = Collector(cast(RunnerLink, _Runners()), store, RunSettings())
    await asyncio.gather(*(collector.collect(entry, number, is_last=True) for number in range(8)))
    manifest = await store.manifest("proj_1", "job_1")
    kept = {name: b"".join([piece async for piece in store.output(each)]) for name, each in manifest.items()}
    assert kept == {f"{number}/a": f"member-{number}".encode() for number in range(8)}


async def test_files_that_come_and_go_do_not_fill_the_store(tmp_path: Any) -> None:
    store, entry, runners = JobStore(ObjectStore(str(tmp_path))), _entry(1), _Runners()
    collector = Collector(cast(RunnerLink, runners), store, RunSettings(output_bytes_most=20))
    for number in range(5):
        runners.names = (f"f{number}",)
        await collector.collect(entry, 0, is_last=True)
    assert [*await store.manifest("proj_1", "job_1")] == ["f0", "f1"]
    assert entry.report().outputs_problem == "a member leaves up to 20 B"


async def test_a_projects_jobs_leave_so_much_together(tmp_path: Any) -> None:
    store, runners = JobStore(ObjectStore(str(tmp_path))), _Runners()
    settings = RunSettings(project_output_bytes=20)
    collector = Collector(cast(RunnerLink, runners), store, settings)
    entries = [_entry(1, f"job_{number}") for number in range(3)]
    await asyncio.gather(*(collector.collect(entry, 0, is_last=True) for entry in entries))
    assert sorted(entry.has_outputs for entry in entries) == [False, True, True]
    (left,) = [entry for entry in entries if not entry.has_outputs]
    assert left.report().outputs_problem == "the outputs of this project's jobs in this region take 20 B, its limit"
    assert await store.outputs_bytes("proj_1") == 16
    # A new region service counts what there is; when old jobs are swept there is room again.
    again = Collector(cast(RunnerLink, runners), store, RunSettings(project_output_bytes=1))
    await again.collect(left, 0, is_last=True)
    assert not left.has_outputs
    kept = [entry for entry in entries if entry.has_outputs]
    for entry in kept:
        await store.save_report("proj_1", entry.report(), 0.0)
    await Sweeper(store, tmp_path / "none", collector.measure_again).sweep(set(), before=1.0)
    await collector.collect(left, 0, is_last=True)
    assert [*await store.manifest("proj_1", left.id)] == ["a"]
    assert left.report().outputs_problem == ""


async def test_a_file_that_takes_anothers_place_counts_once(tmp_path: Any) -> None:
    store, entry, runners = JobStore(ObjectStore(str(tmp_path))), _entry(1), _Runners()
    collector = Collector(cast(RunnerLink, runners), store, RunSettings(project_output_bytes=20))
    for attempt in range(1, 5):
        entry.attempt = attempt
        await collector.collect(entry, 0, is_last=True)
        assert (await store.manifest("proj_1", "job_1"))["a"].version == f"{attempt}-1"
    assert entry.outputs_problem == ""
