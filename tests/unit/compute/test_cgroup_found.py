"""The control group that a container runtime has made, found from its first process; no kernel is asked."""

import os
from pathlib import Path

import pytest

from cloudcrest.compute.sandbox import cgroup


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, str]]:
    found = {os.getpid(): {"": "/system.slice/cloud", "memory": "/cloud", "pids": "/cloud", "cpuacct": "/cloud"}}
    monkeypatch.setattr(cgroup, "_groups_of", lambda pid: found[pid])
    return found


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("below", ["", "/container"])
def test_of_version_2_it_is_the_one_that_is_limited(
    groups: dict[int, dict[str, str]], tmp_path: Path, below: str
) -> None:
    (tmp_path / "cgroup.controllers").touch()
    limited = tmp_path / "machine.slice/libpod-1.scope"
    write(
        limited,
        memory__current="4096",
        memory__peak="8192",
        cpu__stat="usage_usec 1500000\nuser_usec 1\n",
        memory__events="oom 1\noom_kill 1\n",
        pids__current="3",
    )
    if below:
        (tmp_path / f"machine.slice/libpod-1.scope{below}").mkdir()
    groups[7] = {"": f"/machine.slice/libpod-1.scope{below}"}
    found = cgroup.cgroup_of(7, tmp_path)
    assert found is not None
    used = found.usage()
    assert (used.cpu_seconds, used.memory_bytes, used.memory_peak_bytes, used.processes) == (1.5, 4096, 8192, 3)
    assert found.was_out_of_memory()


def test_of_version_1_it_is_of_each_controller(groups: dict[int, dict[str, str]], tmp_path: Path) -> None:
    write(tmp_path / "memory/libpod-1", memory__usage_in_bytes="1", memory__max_usage_in_bytes="2")
    write(tmp_path / "cpuacct/libpod-1", cpuacct__usage="2500000000")
    groups[7] = {"memory": "/libpod-1", "cpuacct": "/libpod-1", "pids": "/cloud"}
    found = cgroup.cgroup_of(7, tmp_path)
    assert found is not None
    used = found.usage()
    assert (used.cpu_seconds, used.memory_peak_bytes, used.processes) == (2.5, 2, 0)


def test_a_runtime_that_makes_none_tells_of_nobody_elses(groups: dict[int, dict[str, str]], tmp_path: Path) -> None:
    groups[7] = groups[os.getpid()]
    assert cgroup.cgroup_of(7, tmp_path) is None
    (tmp_path / "cgroup.controllers").touch()
    write(tmp_path / "system.slice/cloud", memory__current="1")
    assert cgroup.cgroup_of(7, tmp_path) is None
    groups[7] = {"": "/system.slice/cloud/below"}  # without a memory of its own
    (tmp_path / "system.slice/cloud/below").mkdir()
    assert cgroup.cgroup_of(7, tmp_path) is None
