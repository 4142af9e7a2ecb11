"""What ended jobs have left goes when its time is over, and nothing else."""

import os
from pathlib import Path

import pytest

from cloudcrest.compute.jobs.api import JobReport
from cloudcrest.compute.jobs.runner.log import MAX_SEGMENTS, SEGMENT_BYTES
from cloudcrest.compute.jobs.store import JobStore, KeptOutput, log_prefix
from cloudcrest.compute.jobs.sweep import Sweeper
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.errors import NotFound

pytestmark = pytest.mark.anyio


async def test_old_jobs_go_with_all_they_left(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path / "objects"))
    store = JobStore(objects)
    checkpoints = tmp_path / "checkpoints"
    for job_id, ended_at in (("job_old", 100.0), ("job_new", 900.0), ("job_known", 100.0)):
        await store.append_log(log_prefix("p", job_id, 1, 0), 0, b"text")
        await store.save_manifest("p", job_id, {"a": KeptOutput(f"jobs/p/{job_id}/outputs/1", 1, "v")})
        await objects.put(f"jobs/p/{job_id}/outputs/1", b"x")
        if job_id != "job_known":
            await store.save_report("p", JobReport(job_id, "succeeded"), ended_at)
        folder = checkpoints / "p" / job_id
        folder.mkdir(parents=True)
        os.utime(folder, (ended_at, ended_at))
    await objects.put("files/p/file_1", b"of another")
    await Sweeper(store, checkpoints).sweep({"job_known"}, before=500.0)
    assert {key.split("/")[2] for key in await objects.keys("jobs")} == {"job_new", "job_known"}
    assert {path.name for path in (checkpoints / "p").iterdir()} == {"job_new", "job_known"}
    assert await objects.get("files/p/file_1") == b"of another"
    with pytest.raises(NotFound):
        await store.report("p", "job_old")


async def test_a_log_in_the_store_is_bounded_and_takes_the_same_piece_twice(tmp_path: Path) -> None:
    store = JobStore(ObjectStore(str(tmp_path)))
    prefix = log_prefix("p", "job", 1, 0)
    assert await store.append_log(prefix, 0, b"first ") == 6
    assert await store.append_log(prefix, 0, b"first piece") == 11
    assert await store.append_log(prefix, 3, b"st") == 11
    assert await store.read_log(prefix, 0, 100) == (0, b"first piece")
    assert await store.log_end(prefix) == 11
    # A gap: what the runner no longer had.
    assert await store.append_log(prefix, 50, b"later") == 55
    assert await store.read_log(prefix, 20, 100) == (50, b"later")
    assert await store.read_log(prefix, 55, 100) == (55, b"")
    await store.append_log(prefix, 60, b"x" * SEGMENT_BYTES * (MAX_SEGMENTS + 1))
    begin, data = await store.read_log(prefix, 0, 10)
    assert begin > 60
    assert data == b"x" * 10
