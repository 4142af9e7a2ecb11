"""The command lines of container runtimes: which one answers, what it is told, and how what it runs is ended."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.compute.sandbox.view import NOBODY, WORK
from cloudcrest.kernel.errors import InvalidInput

RUNTIMES = ("podman", "docker", "nerdctl")
LABEL = "cloudcrest.sandbox"
PULL_SECONDS = 1800.0
_PROBE_SECONDS = 5.0
_ASK_SECONDS = 60.0
_END_SECONDS = 30.0
_TEMPORARY = "/tmp:size=1g,mode=1777,exec"  # noqa: S108 - its own
_DEFAULT_SHARED_BYTES = 1 << 30
_REFERENCE = re.compile(
    r"(?P<first>[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+(?=/))?)(/[A-Za-z0-9][A-Za-z0-9._-]*)*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_FILE_TRANSPORTS = ("containers-storage", "dir", "docker-archive", "oci", "oci-archive", "ostree", "sif", "tarball")
_TRANSPORTS = frozenset(("atomic", "docker", "docker-daemon", *_FILE_TRANSPORTS))
"""By which Podman takes an image from a file of its node: containers-transports(5)."""


class RuntimeFiles(msgspec.Struct, frozen=True):
    """Paths of what a runtime reads: a command's variables, the names it knows, which system calls it may make (empty:
    those of the runtime's own profile).
    """

    environment: str
    hosts: str
    profile: str = ""


def find_runtime() -> str:
    """The first container runtime that answers; empty: none does."""
    for name in RUNTIMES:
        if shutil.which(name) is None:
            continue
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            tried = subprocess.run([name, "info"], capture_output=True, timeout=_PROBE_SECONDS, check=False)
            if tried.returncode == 0:
                return name
    return ""


def check_image(image: str) -> None:
    """Raises `InvalidInput` for what is no name of an image in a registry or in the node's own store. It stands among
    the runtime's own options: one of them would undo what holds the command. And Podman would read other names as
    files of its node, which may be another tenant's.
    """
    found = _REFERENCE.fullmatch(image)
    if found is None or (found["tag"] and "/" not in image and found["first"].lower() in _TRANSPORTS):
        raise InvalidInput(
            f"'{image}' is no image's name", hint="as python:3.13 or registry.example.com/team/image:tag", param="image"
        )


def user_argv(runtime: str, uid: int, gid: int, *, is_rootless: bool) -> tuple[str, ...]:
    """As whom a command runs, so that it may write where it should. Root gives its folders to nobody (giving.py).
    Another user keeps them: he is nobody inside by Podman, root inside, without rights, where the runtime is his own,
    and himself where it is root's.
    """
    if uid == 0:
        return ("--user", f"{NOBODY}:{NOBODY}")
    if runtime == "podman":
        return ("--userns", f"keep-id:uid={NOBODY},gid={NOBODY}", "--user", f"{NOBODY}:{NOBODY}")
    return ("--user", "0:0" if is_rootless else f"{uid}:{gid}")


def create_argv(runtime: str, spec: SandboxSpec, files: RuntimeFiles, user: tuple[str, ...]) -> tuple[str, ...]:
    """The command line: a new container for this command alone, removed with its end."""
    argv = [
        runtime, "create", "--rm", "--name", name_of(spec), "--label", f"{LABEL}={spec.id}", "--pull", "never",
        *user, "--cap-drop", "ALL", "--hostname", "job",
        "--security-opt", "no-new-privileges", "--network", "none", "--ipc", "private", "--pids-limit",
        str(spec.processes or -1), "--read-only", "--tmpfs", _TEMPORARY, "--init", "--workdir", WORK,
        "--env-file", files.environment, "--volume", f"{spec.work_folder}:{WORK}", "--entrypoint", "",
        # What programs share in memory: the runtimes' own 64 MB are too little for most that train.
        "--shm-size", str(spec.memory_bytes or _DEFAULT_SHARED_BYTES),
    ]  # fmt: skip
    if runtime != "nerdctl":  # the output is ours to keep: the runtime's copy would be one more, and without a limit
        argv += ["--log-driver", "none"]
    if runtime == "podman":  # it would show the node's own
        argv += ["--no-hosts", "--volume", f"{files.hosts}:/etc/hosts:ro"]
    if files.profile:
        argv += ["--security-opt", f"seccomp={files.profile}"]
    if spec.memory_bytes:
        argv += ["--memory", str(spec.memory_bytes), "--memory-swap", str(spec.memory_bytes)]
    if spec.cpu_milli:
        argv += ["--cpus", f"{spec.cpu_milli / 1000:g}"]
    for bind in spec.binds:
        argv += ["--volume", f"{bind.source}:{bind.target}" + ("" if bind.is_writable else ":ro")]
    return (*argv, *_chips(runtime, spec), "--", spec.image, *spec.argv)


def _chips(runtime: str, spec: SandboxSpec) -> list[str]:
    """NVIDIA's by what does not change with the node's other GPUs; its toolkit brings the driver. Others' by files."""
    if not spec.accelerators or spec.accelerators[0].family != "nvidia":
        return [word for path in spec.devices for word in ("--device", path)]
    names = [chip.uuid or str(chip.index) for chip in spec.accelerators]
    if runtime == "podman":
        return [word for name in names for word in ("--device", f"nvidia.com/gpu={name}")]
    return ["--gpus", '"device=' + ",".join(names) + '"']


def name_of(spec: SandboxSpec) -> str:
    """What its container is called."""
    return f"cloudcrest-{spec.id}"


async def ask(
    *argv: str, seconds: float = _ASK_SECONDS, started: Callable[[int], None] = lambda _: None
) -> tuple[int, str]:
    """A command's exit code, and what it says: its output where that is 0, else the last line of its errors. `started`:
    is told the number of its process.
    """
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # what ends this process's group does not end it in the midst of its work
    )
    started(child.pid)
    try:
        output, errors = await asyncio.wait_for(child.communicate(), seconds)
    except TimeoutError:
        return -1, f"it took longer than {seconds:g} s"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    code = child.returncode or 0
    said = output if code == 0 else errors.strip().rpartition(b"\n")[2]
    return code, said.decode(errors="replace").strip()


async def process_of(runtime: str, spec: SandboxSpec) -> int:
    """The first process of its container, as this node numbers it; 0: it does not run, or not on this kernel."""
    _, said = await ask(runtime, "inspect", "--format", "{{.State.Pid}}", name_of(spec))
    if not said.isdigit() or said == "0":
        return 0
    with contextlib.suppress(OSError):
        own = os.stat(f"/proc/{os.getpid()}/ns/net")
        found = os.stat(f"/proc/{said}/ns/net")
        return int(said) if found.st_ino != own.st_ino else 0
    return 0


async def profile_of(runtime: str) -> dict[str, Any] | None:
    """The runtime's own profile of system calls, where it is wider than ours and can be read."""
    if runtime != "podman":
        return None
    _, path = await ask(runtime, "info", "--format", "{{.Host.Security.SECCOMPProfilePath}}")
    try:
        text = await asyncio.to_thread(Path(path).read_bytes)
        return msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return None


async def is_rootless(runtime: str) -> bool:
    """Whether the runtime is this user's own."""
    _, said = await ask(runtime, "info", "--format", "{{.SecurityOptions}}")
    return "rootless" in said


def end_left(sandbox_id: str) -> None:
    """Ends the container of a command whose runner is gone, by whichever runtime has it. Blocks."""
    for runtime in RUNTIMES:
        if shutil.which(runtime) is not None:
            end(runtime, sandbox_id)


def end(runtime: str, sandbox_id: str) -> None:
    """Ends the container of a command, as far as there is one. Blocks."""
    found = _said(runtime, "ps", "--all", "--quiet", "--filter", f"label={LABEL}={sandbox_id}").split()
    if found:
        _said(runtime, "rm", "--force", *found)


def _said(*argv: str) -> str:
    """What a command prints; nothing where it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_END_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
