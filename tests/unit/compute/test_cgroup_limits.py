"""What a container may use, as the kernel's files have it."""

from pathlib import Path

import pytest

from cloudcrest.compute.fabric.cgroup_limits import CgroupLimits, cgroup_limits


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, CgroupLimits()),
        ({"memory.max": "max\n", "cpu.max": "max 100000\n"}, CgroupLimits()),
        ({"memory.max": "8589934592\n", "cpu.max": "150000 100000\n"}, CgroupLimits(8589934592, 1500)),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            CgroupLimits(),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "4294967296",
                "cpu/cpu.cfs_quota_us": "400000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            CgroupLimits(4294967296, 4000),
        ),
        ({"memory.max": "much", "cpu.max": "1 0"}, CgroupLimits()),
    ],
)
def test_a_containers_limits_are_read(tmp_path: Path, files: dict[str, str], limits: CgroupLimits) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_limits(tmp_path) == limits
