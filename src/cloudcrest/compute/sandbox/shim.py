"""Runs before a command, in its process: joins its control groups, takes its limits, becomes the command.

    python -I -S shim.py '{"cgroups": […], "limits": {"NOFILE": 1024}, "user": 0, "stage": []}' -- program argument …

`user`: whom root becomes; 0: it stays who it is. `stage`: pairs of folders, of which the first is mounted over the
second, for this process and what it starts alone: whoever is nobody could not walk to the first.

It imports the standard library alone, and is gone when the command runs.
"""

import ctypes
import json
import os
import resource
import sys

_NEW_MOUNTS, _PRIVATE, _BIND = 0x20000, 0x44000, 0x5000
"""CLONE_NEWNS; MS_PRIVATE and MS_BIND, with all below (MS_REC)."""


def main() -> None:
    """Replaces this process; 126 where its limits cannot be set, 127 where the program is not there."""
    wanted = json.loads(sys.argv[1])
    program = sys.argv[3:]
    path = _found(program[0])  # now: whoever has become nobody may not even import what looks for it
    try:
        for folder in wanted["cgroups"]:
            with open(f"{folder}/cgroup.procs", "w") as members:
                members.write(str(os.getpid()))
        for name, value in wanted["limits"].items():
            number = getattr(resource, f"RLIMIT_{name}")
            most = resource.getrlimit(number)[1]
            least = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(number, (least, least))
        if wanted["stage"]:
            _mount(wanted["stage"])
        if wanted["user"]:
            os.setgroups([])
            os.setresgid(*[wanted["user"]] * 3)
            os.setresuid(*[wanted["user"]] * 3)
    except OSError as error:
        sys.stderr.write(f"the command's limits cannot be set: {error}\n")
        sys.exit(126)
    try:
        os.execv(path, program)  # noqa: S606 - the command itself, by its words
    except OSError as error:
        sys.stderr.write(f"cannot run {program[0]}: {error.strerror}\n")
        sys.exit(127)


def _mount(pairs: list[list[str]]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    calls = [(libc.unshare, (_NEW_MOUNTS,)), (libc.mount, (None, b"/", None, _PRIVATE, None))]
    calls += [(libc.mount, (source.encode(), target.encode(), None, _BIND, None)) for source, target in pairs]
    for call, arguments in calls:
        if call(*arguments) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


def _found(name: str) -> str:
    """Where a program is, as `exec` looks for it."""
    if "/" in name:
        return name
    places = [f"{folder}/{name}" for folder in os.environ.get("PATH", "/usr/bin:/bin").split(":")]
    return next((place for place in places if os.access(place, os.X_OK)), name)


if __name__ == "__main__":
    main()
