"""Whether bubblewrap can be used on this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cloudcrest.compute.sandbox.filter import filter_for
from cloudcrest.compute.sandbox.giving import in_memory

_PROBE_SECONDS = 5.0


_NAMESPACES = str(Path(__file__).parent / "namespaces.py")


def probe_network() -> str:
    """Why commands in bubblewrap can have no network among them here; empty: they can. Blocks."""
    argv = [sys.executable, "-I", "-S", _NAMESPACES, "try"]
    try:
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no device for a network can be made here: {error}"
    return "" if tried.returncode == 0 else (tried.stderr.strip() or f"its probe ended with {tried.returncode}")


def probe() -> str:
    """Why bubblewrap cannot be used here; empty: it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (Debian, Ubuntu, Fedora: the package bubblewrap)"
    argv = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--cap-drop", "ALL"]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    program = filter_for(os.uname().machine)
    filtered = [in_memory(program)] if program else []
    argv += [*(word for fd in filtered for word in ("--seccomp", str(fd))), "true"]
    try:
        tried = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False, pass_fds=filtered
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}"
    finally:
        for fd in filtered:
            os.close(fd)
    if tried.returncode == 0:
        return ""
    said = tried.stderr.strip().splitlines()
    return f"bubblewrap cannot make a sandbox here: {said[-1] if said else tried.returncode}"
