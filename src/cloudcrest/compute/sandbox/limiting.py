"""How a command is started under its limits, whatever else holds it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.compute.sandbox.cgroup import Cgroup

_SHIM = str(Path(__file__).parent / "shim.py")
_OPEN_FILES = 65_536


def limited(
    argv: tuple[str, ...],
    spec: SandboxSpec,
    cgroup: Cgroup | None,
    *,
    user: int = 0,
    stage: Sequence[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """The command that joins the group and takes rlimits, where the group does not hold what was asked for.

    `user`: whom root becomes before it; `stage`: what is mounted where before that (shim.py).
    """
    held: frozenset[str] = frozenset() if cgroup is None else cgroup.holds
    limits = {"CORE": 0, "NOFILE": _OPEN_FILES}
    if spec.memory_bytes and "memory" not in held:
        limits["DATA"] = spec.memory_bytes
    if spec.processes and "processes" not in held:
        limits["NPROC"] = spec.processes
    wanted = {"cgroups": [] if cgroup is None else list(cgroup.folders), "limits": limits, "user": user, "stage": stage}
    return (sys.executable, "-I", "-S", _SHIM, json.dumps(wanted), "--", *argv)


def how_it_ended(code: int) -> tuple[int | None, int | None]:
    """The exit code and the signal, of what a shell would report: 128 and more is a signal's number."""
    if code < 0:
        return None, -code
    return (None, code - 128) if 128 < code < 128 + 65 else (code, None)
