"""Small programs and patience for the fabric's tests."""

import os
import sys

import psutil


def python(code: str) -> tuple[str, ...]:
    """The command that runs `code`."""
    return (sys.executable, "-c", code)


SLEEPER = python("import time; print('up', flush=True); time.sleep(600)")
STUBBORN = python(
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_quietly(pid: int) -> None:
    """kill -9 for what a failed test leaves."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
