"""Runs before a command, in its process: joins its control groups, takes its limits, becomes the command.

    python -I -S shim.py '{"cgroups": […], "limits": {"NOFILE": 1024}, "user": 0, "stage": []}' -- program argument …

`user`: whom root becomes; 0: it stays who it is. `stage`: pairs of folders, of which the first is mounted at the
second, below STAGE, for this process and what it starts alone: whoever is nobody could not walk to the first.

It imports the standard library alone, and is gone when the command runs.
"""

import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable

STAGE = "/tmp"  # noqa: S108 - another's: an empty one is mounted over it, for this process alone
_NEW_MOUNTS, _PRIVATE, _BIND, _PLAIN = 0x20000, 0x44000, 0x5000, 0x6
"""CLONE_NEWNS; MS_PRIVATE and MS_BIND, with all below (MS_REC); MS_NOSUID and MS_NODEV."""


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
    _call(libc.unshare, _NEW_MOUNTS)
    _call(libc.mount, None, b"/", None, _PRIVATE, None)
    # By their descriptors: what is below STAGE cannot be walked to any more.
    sources = [os.open(source, os.O_PATH | os.O_DIRECTORY) for source, _ in pairs]
    _call(libc.mount, b"tmpfs", STAGE.encode(), b"tmpfs", _PLAIN, b"mode=755,size=64k")
    for source, (_, target) in zip(sources, pairs, strict=True):
        os.mkdir(target, 0o755)
        _call(libc.mount, b"/proc/self/fd/%d" % source, target.encode(), None, _BIND, None)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
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
