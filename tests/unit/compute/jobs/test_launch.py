"""What a member's runner is told."""

from pathlib import Path
from typing import Any

import pytest

from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.jobs.api import JobVolume, secret_words
from cloudcrest.compute.jobs.entry import Entry, MemberEntry
from cloudcrest.compute.jobs.launch import Launcher
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.volumes.folders import VolumeFolders
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.errors import SetupError
from tests.support.job_region import job

SEALER = Sealer(Sealer.new_master_key())


def launcher(folder: Path) -> Launcher:
    return Launcher(folder / "work", folder / "shared", RunSettings(), "secret", SEALER.open)


def entry(folder: Path, **changes: Any) -> Entry:
    return Entry(job(("true",), **changes), 0.0, attempt=2, members=[MemberEntry("job_1-2-0", "n1", ())])


def test_the_time_limit_holds_over_attempts(tmp_path: Path) -> None:
    limited = entry(tmp_path, time_limit_seconds=10.0)
    limited.ran_seconds = 4.0
    assert launcher(tmp_path).runner(limited, 0).time_limit_seconds == 6.0
    limited.ran_seconds = 11.0
    assert launcher(tmp_path).runner(limited, 0).time_limit_seconds == 0.0
    assert launcher(tmp_path).runner(entry(tmp_path), 0).time_limit_seconds is None


def test_a_volumes_own_quota_holds_in_jobs(tmp_path: Path) -> None:
    volumes = VolumeFolders(tmp_path / "shared", most=5, most_bytes=10**12, now=lambda: 0.0)
    volumes.create("proj_1", "small", 1_000_000)
    wanted = (JobVolume("small", "/a"), JobVolume("small", "/b", is_writable=False), JobVolume("missing", "/c"))
    mounts = launcher(tmp_path).runner(entry(tmp_path, volumes=wanted, has_checkpoints=True), 0).mounts
    most = RunSettings().volume_bytes
    assert [mount.quota_bytes for mount in mounts] == [1_000_000, 0, most, most]


def test_a_runner_is_told_which_chips_are_its_own(tmp_path: Path) -> None:
    chips = (AcceleratorFacts(3, "nvidia", "nvidia-t4-16gb", "T4", 1, uuid="GPU-abc"),)
    given = entry(tmp_path)
    given.members = [MemberEntry("job_1-2-0", "n1", (1,), chips=chips)]
    assert launcher(tmp_path).runner(given, 0).accelerators == chips
    assert launcher(tmp_path).process(given, 0).accelerators == (1,)


def test_a_secret_opens_in_its_own_project_and_under_its_own_name_alone(tmp_path: Path) -> None:
    sealed = SEALER.seal("sesame", secret_words("proj_1", "TOKEN"))
    own = entry(tmp_path, sealed_secrets={"TOKEN": sealed, "OLD": SEALER.seal("sealed before")})
    assert launcher(tmp_path).runner(own, 0).secrets == {"TOKEN": "sesame", "OLD": "sealed before"}
    for copied in ({"project_id": "proj_2"}, {"sealed_secrets": {"OTHER": sealed}}):
        with pytest.raises(SetupError, match="another place"):
            launcher(tmp_path).runner(entry(tmp_path, **{"sealed_secrets": {"TOKEN": sealed}, **copied}), 0)
