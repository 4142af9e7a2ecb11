"""When a checkpoint was last written, in folders that a job may fill with anything."""

import os
from pathlib import Path

import pytest

from cloudcrest.compute.fakes import FakePlacer
from cloudcrest.compute.jobs.checkpoints import CheckpointWatch, written_at
from cloudcrest.kernel.clock import ManualClock
from tests.support.job_region import job


def written(path: Path, at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (at, at))


def test_the_newest_file_counts_wherever_it_is_and_folders_do_not(tmp_path: Path) -> None:
    assert written_at(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert written_at(tmp_path) is None
    written(tmp_path / "old", 100.0)
    written(tmp_path / "a" / "b" / "new", 200.0)
    assert written_at(tmp_path) == 200.0


def test_links_lead_nowhere_and_not_more_than_a_thousand_names_are_looked_at(tmp_path: Path) -> None:
    written(tmp_path / "outside" / "secret", 900.0)
    inside = tmp_path / "inside"
    written(inside / "own", 100.0)
    (inside / "file").symlink_to(tmp_path / "outside" / "secret")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "loop").symlink_to(inside)
    assert written_at(inside) == 100.0
    for number in range(1_100):
        (inside / "many" / f"{number}").parent.mkdir(exist_ok=True)
        (inside / "many" / f"{number}").touch()
    written(inside / "many" / "more" / "late", 9e9)
    assert (written_at(inside) or 0.0) < 9e9


@pytest.mark.anyio
async def test_the_placer_is_told_of_each_and_of_no_time_to_come(tmp_path: Path, clock: ManualClock) -> None:
    now, placer = clock.unix_seconds(), FakePlacer()
    jobs = [job(("true",), id=name, has_checkpoints=True) for name in ("job_1", "job_2", "job_3")]
    written(tmp_path / jobs[0].project_id / "job_1" / "step", now - 60.0)
    written(tmp_path / jobs[1].project_id / "job_2" / "step", now + 3_600.0)
    await CheckpointWatch(placer, "jobs", tmp_path, lambda: jobs, clock=clock).look()
    assert placer.saves == {"job_1": now - 60.0, "job_2": now}
