"""What a container's cgroup lets this machine's agent use: inside one, the kernel still tells of the whole machine."""

from pathlib import Path

import msgspec

ROOT = Path("/sys/fs/cgroup")
_MEMORY_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_CPU_FILES = ("cpu.max", "cpu/cpu.cfs_quota_us")
_PERIOD_FILE = "cpu/cpu.cfs_period_us"
_UNLIMITED_BYTES = 2**60
"""Version 1 says "no limit" with the largest number of pages there is."""


class CgroupLimits(msgspec.Struct, frozen=True):
    """None: no limit."""

    memory_bytes: int | None = None
    cpu_milli: int | None = None


def cgroup_limits(root: Path = ROOT) -> CgroupLimits:
    """The limits of the cgroup that is mounted at `root`, of version 2 or 1. A host's root group has none."""
    memory = next((text for text in (_text(root / name) for name in _MEMORY_FILES) if text), "")
    quota = next((text for text in (_text(root / name) for name in _CPU_FILES) if text), "")
    return CgroupLimits(memory_limit(memory), cpu_limit(quota, _text(root / _PERIOD_FILE)))


def memory_limit(text: str) -> int | None:
    """Of `max`, or bytes."""
    return int(text) if text.isdigit() and int(text) < _UNLIMITED_BYTES else None


def cpu_limit(quota: str, period: str) -> int | None:
    """Of `max 100000` or `150000 100000` (version 2), or of `-1` or `150000` and a period of its own (version 1): in
    thousandths of a core.
    """
    words = [*quota.split(), period]
    if len(words) < 2 or not words[0].isdigit() or not words[1].isdigit() or int(words[1]) == 0:
        return None
    return 1000 * int(words[0]) // int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
