"""A control group for one command: memory, processes and CPU held, usage counted. Versions 1 and 2.

None where this process may not make one: then rlimits hold what they can (shim.py).
"""

import contextlib
import os
import time
from pathlib import Path

from cloudcrest.compute.sandbox.api import SandboxUsage

ROOT = Path("/sys/fs/cgroup")
PREFIX = "cloudcrest-"
_SWEPT_AFTER_SECONDS = 60.0
_PERIOD_MICROSECONDS = 100_000
_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_REMOVE_TRIES = 50
_REMOVE_PAUSE_SECONDS = 0.02


class Cgroup:
    """Folders that a command's processes are put into. `holds`: which limits they keep."""

    def __init__(self, folders: dict[str, Path], *, is_v2: bool) -> None:
        self._folders = folders
        self._is_v2 = is_v2
        self.holds: frozenset[str] = frozenset()

    @property
    def folders(self) -> tuple[str, ...]:
        """Whose `cgroup.procs` the command writes itself into before it is executed."""
        return tuple(dict.fromkeys(str(folder) for folder in self._folders.values()))

    def limit(self, *, cpu_milli: int, memory_bytes: int, processes: int) -> None:
        """Sets what is given (0: no limit)."""
        held = set()
        if memory_bytes and self._set("memory", ("memory.max", "memory.limit_in_bytes"), memory_bytes):
            held.add("memory")
            self._set("memory", ("memory.swap.max", "memory.memsw.limit_in_bytes"), 0 if self._is_v2 else memory_bytes)
        if processes and self._set("pids", ("pids.max", "pids.max"), processes):
            held.add("processes")
        if cpu_milli:
            quota = cpu_milli * _PERIOD_MICROSECONDS // 1000
            if self._set(
                "cpu", ("cpu.max", "cpu.cfs_quota_us"), f"{quota} {_PERIOD_MICROSECONDS}" if self._is_v2 else quota
            ):
                held.add("cpu")
        self.holds = frozenset(held)

    def usage(self) -> SandboxUsage:
        """What its processes have used."""
        if self._is_v2:
            stat = dict(line.split() for line in self._read("cpu", "cpu.stat").splitlines() if len(line.split()) == 2)
            cpu_seconds = int(stat.get("usage_usec", 0)) / 1e6
            memory, peak = self._number("memory", "memory.current"), self._number("memory", "memory.peak")
        else:
            cpu_seconds = self._number("cpuacct", "cpuacct.usage") / 1e9
            memory = self._number("memory", "memory.usage_in_bytes")
            peak = self._number("memory", "memory.max_usage_in_bytes")
        return SandboxUsage(cpu_seconds, memory, max(memory, peak), self._number("pids", "pids.current"))

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed anything in it for memory."""
        text = self._read("memory", "memory.events" if self._is_v2 else "memory.oom_control")
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines())

    def kill(self) -> None:
        """SIGKILL to all that is in it."""
        if self._is_v2 and self._set("memory", ("cgroup.kill", "cgroup.kill"), 1):
            return
        for folder in self.folders:
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(int(pid), 9)

    def remove(self) -> None:
        """Removes it, when nothing is in it any more."""
        for folder in self.folders:
            for _ in range(_REMOVE_TRIES):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:  # its last processes are being buried
                    time.sleep(_REMOVE_PAUSE_SECONDS)
                else:
                    break

    def _set(self, controller: str, names: tuple[str, str], value: int | str) -> bool:
        folder = self._folders.get(controller)
        if folder is None:
            return False
        try:
            (folder / names[0 if self._is_v2 else 1]).write_text(str(value))
        except OSError:
            return False
        return True

    def _read(self, controller: str, name: str) -> str:
        folder = self._folders.get(controller)
        if folder is None:
            return ""
        try:
            return (folder / name).read_text()
        except OSError:
            return ""

    def _number(self, controller: str, name: str) -> int:
        text = self._read(controller, name).strip()
        return int(text) if text.isdigit() else 0


def new_cgroup(name: str, root: Path = ROOT) -> Cgroup | None:
    """A group below this process's own, of the hierarchies in which it may make one. None: of no one."""
    own = _own()
    if (root / "cgroup.controllers").exists():
        folder = _make_v2(root, own.get("", "/"), name)
        return None if folder is None else Cgroup(dict.fromkeys(("memory", "pids", "cpu"), folder), is_v2=True)
    folders: dict[str, Path] = {}
    for controller in _CONTROLLERS:
        folder = root / controller / own.get(controller, "/").lstrip("/") / name
        _sweep(folder.parent)
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            if os.access(folder / "cgroup.procs", os.W_OK):
                folders[controller] = folder
    return Cgroup(folders, is_v2=False) if folders else None


def cgroup_of(pid: int, root: Path = ROOT) -> Cgroup | None:
    """The group that another has made for this process, to read and not to set. None: it is in this process's own."""
    found, own = _groups_of(pid), _own()
    if (root / "cgroup.controllers").exists():
        folder, ours = (root / groups.get("", "/").lstrip("/") for groups in (found, own))
        if not (folder / "memory.current").exists():  # crun puts it into one below the one that it limits
            folder = folder.parent
        is_its_own = folder not in (root, ours, *ours.parents)
        return Cgroup(dict.fromkeys(("memory", "pids", "cpu"), folder), is_v2=True) if is_its_own else None
    others = [name for name in _CONTROLLERS if name in found and found[name] != own.get(name)]
    folders = {name: root / name / found[name].lstrip("/") for name in others}
    return Cgroup(folders, is_v2=False) if folders else None


def _sweep(parent: Path) -> None:
    """Removes groups of commands whose runner was killed. Those with processes stay, and those just made."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _SWEPT_AFTER_SECONDS:
                    folder.rmdir()


def _own() -> dict[str, str]:
    return _groups_of(os.getpid())


def _groups_of(pid: int) -> dict[str, str]:
    """A process's group by controller; "" is version 2's."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _make_v2(root: Path, own: str, name: str) -> Path | None:
    """Groups that hold processes give no controllers on, so a sibling of this process's own group is made."""
    parent = root / own.lstrip("/")
    for place in (parent.parent if parent != root else root, root):
        folder = place / name
        _sweep(place)
        try:
            (place / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            folder.mkdir(exist_ok=True)
        except OSError:
            continue
        if os.access(folder / "cgroup.procs", os.W_OK):
            return folder
    return None
