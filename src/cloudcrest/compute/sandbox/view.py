"""What a command in bubblewrap sees: pure, from its specification and what this machine has."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cloudcrest.compute.sandbox.api import SandboxSpec

WORK = "/work"
NOBODY = 65534
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "/etc/alternatives", "/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/terminfo",
)  # fmt: skip
"""Of /etc nothing else is seen: it may name people, hosts and secrets."""
_TEMPORARY = "/tmp"  # noqa: S108 - its own
_TEMPORARY_BYTES = 1 << 30


def bubblewrap_argv(spec: SandboxSpec, files: Mapping[str, int], places: Mapping[Path, str]) -> tuple[str, ...]:
    """What bubblewrap is told before the command. `files`: descriptors of what is in `FILES`, which it reads to their
    end. `places`: where it finds the work folder and the binds' sources.
    """
    argv = [
        "--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL",
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--hostname", "job",
        "--die-with-parent", "--new-session", "--clearenv",
        "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    argv += _system(os.path.islink, os.path.isdir, os.readlink)
    for path in _ETC:
        argv += ["--ro-bind-try", path, path]
    for name, descriptor in files.items():
        argv += ["--perms", "0444", "--ro-bind-data", str(descriptor), f"/etc/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    for device in spec.devices:
        argv += ["--dev-bind", device, device]
    for folder in spec.shown:
        argv += ["--ro-bind-try", folder, folder]
    argv += ["--perms", "1777", "--size", str(_TEMPORARY_BYTES), "--tmpfs", _TEMPORARY]
    argv += ["--bind", places[spec.work_folder], WORK]
    for bind in spec.binds:
        argv += ["--bind" if bind.is_writable else "--ro-bind", places[bind.source], bind.target]
    return (*argv, "--chdir", WORK, *_environment(spec))


def _system(
    is_link: Callable[[str], bool], is_folder: Callable[[str], bool], target: Callable[[str], str]
) -> list[str]:
    argv = []
    for path in _SYSTEM:
        if is_link(path):
            argv += ["--symlink", target(path), path]
        elif is_folder(path):
            argv += ["--ro-bind", path, path]
    return argv


def environment_of(spec: SandboxSpec, *, home: str) -> dict[str, str]:
    """What a command finds, with what it was given."""
    base = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}
    return {**base, **spec.environment}


def _environment(spec: SandboxSpec) -> list[str]:
    argv = []
    for name, value in environment_of(spec, home=WORK).items():
        argv += ["--setenv", name, value]
    return argv


FILES = {
    "passwd": f"nobody:x:{NOBODY}:{NOBODY}:nobody:{WORK}:/bin/sh\n",
    "group": f"nogroup:x:{NOBODY}:\n",
    "hosts": "127.0.0.1 localhost job\n::1 localhost\n",
    "resolv.conf": "",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
"""Of /etc, made for every command alike."""
