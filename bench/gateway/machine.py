"""What a benchmark asks of the machine: cores, processes' time and memory, small C programs, free ports."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

MIB = 1024 * 1024
GATEWAY_CORE = 1
LOAD_CORE = 0


def need(*programs: str) -> None:
    """Ends with a plain sentence where a program is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        sys.exit(f"bench-gateway needs {', '.join(missing)} (Debian, Ubuntu: apt install gcc util-linux)")
    if (os.cpu_count() or 1) <= GATEWAY_CORE or sys.platform != "linux":
        sys.exit("bench-gateway needs Linux and two cores: one for the gateway, one for the load and the upstream")


def compiled(source: Path, folder: Path) -> Path:
    """The C program of `source`, built where it is missing or older."""
    program = folder / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


def pinned(core: int, *argv: str | Path) -> list[str]:
    """The command on one core."""
    return ["taskset", "-c", str(core), *map(str, argv)]


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago; for programs that cannot choose one themselves."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its descendants so far, user and kernel, from the scheduler's own count."""
    total = 0
    for process in _tree(pid):
        try:
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    return sum(process.memory_info().rss for process in _tree(pid)) / MIB


@contextmanager
def running(argv: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process in a group of its own, with its output in `log`; gone afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield process.pid
    finally:
        for member in _tree(process.pid):
            member.kill()
        process.wait()


def description() -> str:
    """The machine in one line, with its load."""
    name = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown processor",
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{name}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, load average {load}"


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
