"""Commands in a container image, by the node's Docker, Podman or nerdctl: no rights, no network, the same limits.

runner ── client (docker run …), which waits for its container
       ── guard, which ends the container where the runner is gone
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from typing import Self

from cloudcrest.compute.sandbox.api import Reach, SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.compute.sandbox.giving import give, in_memory
from cloudcrest.compute.sandbox.limiting import how_it_ended
from cloudcrest.compute.sandbox.view import NOBODY, WORK
from cloudcrest.kernel.errors import InvalidInput, SetupError, Unavailable

RUNTIMES = ("podman", "docker", "nerdctl")
_PROBE_SECONDS = 5.0
_PULL_SECONDS = 1800.0
_END_SECONDS = 30.0
_LABEL = "cloudcrest.sandbox"
_GUARD = """
read -r client
cat >/dev/null
kill -9 "$client" 2>/dev/null
found=$("$0" ps --all --quiet --filter "label=$1")
[ -z "$found" ] || exec "$0" rm --force $found
"""
"""Ends a container whose runner is gone: of who holds the other end of its standard input the kernel lets go. The
client that starts it is killed first, or it might start one that was not there to be found.
"""
_TEMPORARY = "/tmp:size=1g"  # noqa: S108 - its own


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


def end_left(sandbox_id: str) -> None:
    """Ends the container of a command whose runner is gone, by whichever runtime has it. Blocks."""
    for runtime in RUNTIMES:
        if shutil.which(runtime) is not None:
            _end(runtime, sandbox_id)


def run_argv(runtime: str, spec: SandboxSpec, environment_file: str, user: tuple[str, ...]) -> tuple[str, ...]:
    """The command line: a new container for this command alone, removed with its end."""
    argv = [
        runtime, "run", "--rm", "--name", _name(spec), "--label", f"{_LABEL}={spec.id}", "--pull", "never",
        *user, "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--network", "none", "--ipc", "private", "--pids-limit",
        str(spec.processes or -1), "--read-only", "--tmpfs", _TEMPORARY, "--init", "--workdir", WORK,
        "--env-file", environment_file, "--volume", f"{spec.work_folder}:{WORK}", "--entrypoint", "",
    ]  # fmt: skip
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


class ContainerSandbox:
    """Implements `sandbox.api.Sandbox` over a runtime's command line."""

    has_own_view = True

    def __init__(self, runtime: str) -> None:
        self.isolation = runtime

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        return "none", "commands in container images have no network"

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Fetches the image where it is not there, and starts it. Raises `InvalidInput` where it is nowhere."""
        if not spec.image[:1].isalnum():
            # It stands among the runtime's own options: one of them would undo what holds the command.
            raise InvalidInput("an image's name begins with a letter or digit", param="image")
        if spec.allowed_hosts:
            raise SetupError("a job in a container image has no network here", hint="leave image out, or allowed_hosts")
        if broken := [name for name, value in spec.environment.items() if "\n" in value]:
            # The runtime reads a line for each; on its command line everyone on this machine could read them.
            raise InvalidInput(f"the value of {broken[0]} has line feeds, which a container's variables cannot have")
        await self._pull(spec.image)
        user = await self._user(spec)
        told = _Told("\n".join(f"{name}={value}" for name, value in spec.environment.items()), spec)
        guard = await _Guard.start(self.isolation, spec)
        try:
            child = await asyncio.create_subprocess_exec(
                *run_argv(self.isolation, spec, told.path, user),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                start_new_session=True,
            )
        except OSError as error:
            told.forget()
            await guard.dismiss()
            raise Unavailable(f"{self.isolation} does not run: {error}") from error
        guard.watch(child.pid)
        return _Container(self.isolation, spec, child, told, guard)

    async def _user(self, spec: SandboxSpec) -> tuple[str, ...]:
        """As whom it runs, with its folders given to him. Raises `Unavailable`."""
        uid, is_rootless = os.geteuid(), False
        if uid == 0:
            try:
                for folder in dict.fromkeys((spec.work_folder, *(bind.source for bind in spec.binds))):
                    await asyncio.to_thread(give, folder)
            except OSError as error:
                raise Unavailable(f"the container's folders cannot be given to it: {error}") from error
        elif self.isolation != "podman":
            said = await asyncio.to_thread(_said, self.isolation, "info", "--format", "{{.SecurityOptions}}")
            is_rootless = "rootless" in said
        return user_argv(self.isolation, uid, os.getegid(), is_rootless=is_rootless)

    async def _pull(self, image: str) -> None:
        if await _succeeds(self.isolation, "image", "inspect", image):
            return
        if not await _succeeds(self.isolation, "pull", image, seconds=_PULL_SECONDS):
            raise InvalidInput(f"the image '{image}' cannot be fetched", param="image")


class _Told:
    """The command's variables, secrets among them, in a file for the runtime to read: on no disk where the system can
    hold one in memory, else readable by this user alone, beside the work folder.
    """

    def __init__(self, text: str, spec: SandboxSpec) -> None:
        self._fd: int | None = None
        self._file = spec.work_folder.parent / f"{_name(spec)}.env"
        if hasattr(os, "memfd_create"):
            self._fd = in_memory(text.encode())
            self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
            return
        self._file.touch(mode=0o600)
        self._file.write_text(text)
        self.path = str(self._file)

    def forget(self) -> None:
        """It is read no more; again changes nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._file.unlink(missing_ok=True)


class _Guard:
    """A process beside the container that ends it when this one is gone, however it went."""

    def __init__(self, process: asyncio.subprocess.Process, write_fd: int) -> None:
        self._process = process
        self._write_fd = write_fd

    @classmethod
    async def start(cls, runtime: str, spec: SandboxSpec) -> Self:
        """Raises `Unavailable`."""
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _GUARD, runtime, f"{_LABEL}={spec.id}"),
                stdin=read_fd,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            os.close(write_fd)
            raise Unavailable(f"nothing could end the container: {error}") from error
        finally:
            os.close(read_fd)
        return cls(process, write_fd)

    def watch(self, client_pid: int) -> None:
        """The client runs that starts the container."""
        with contextlib.suppress(OSError):
            os.write(self._write_fd, f"{client_pid}\n".encode())

    async def dismiss(self) -> None:
        """There is nothing to end any more."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        os.close(self._write_fd)


class _Container:
    """Implements `sandbox.api.SandboxProcess` over a client that waits for its container."""

    def __init__(
        self,
        runtime: str,
        spec: SandboxSpec,
        child: asyncio.subprocess.Process,
        told: _Told | None = None,
        guard: _Guard | None = None,
    ) -> None:
        self._runtime = runtime
        self._spec = spec
        self._name = _name(spec)
        self._child = child
        self._told = told
        self._guard = guard

    async def wait(self) -> SandboxEnd:
        code = await self._child.wait()
        if self._told is not None:
            self._told.forget()
        if self._guard is not None:
            await self._guard.dismiss()
            self._guard = None
            if code != 0:  # the client's end need not be the container's: it may have been killed, or lost the runtime
                await asyncio.to_thread(_end, self._runtime, self._spec.id)
        exit_code, by_signal = how_it_ended(code)
        return SandboxEnd(exit_code, by_signal)

    def signal(self, number: int) -> None:
        self._call("kill", "--signal", str(int(number)), self._name)

    def kill(self) -> None:
        self._call("kill", "--signal", str(int(signal.SIGKILL)), self._name)

    def usage(self) -> SandboxUsage:
        return SandboxUsage()

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> SandboxProcess:
        given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        child = await asyncio.create_subprocess_exec(
            *(self._runtime, "exec", "--interactive", "--tty", *given, self._name, *argv),
            stdin=terminal_fd,
            stdout=terminal_fd,
            stderr=terminal_fd,
            start_new_session=True,
        )
        return _Container(self._runtime, self._spec, child)

    def _call(self, *arguments: str) -> None:
        """Without waiting: what it does shows in the container's end."""
        with contextlib.suppress(OSError):
            subprocess.Popen(
                [self._runtime, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


async def _succeeds(*argv: str, seconds: float = 60.0) -> bool:
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        return await asyncio.wait_for(child.wait(), seconds) == 0
    except TimeoutError:
        child.kill()
        return False


def _end(runtime: str, sandbox_id: str) -> None:
    found = _said(runtime, "ps", "--all", "--quiet", "--filter", f"label={_LABEL}={sandbox_id}").split()
    if found:
        _said(runtime, "rm", "--force", *found)


def _said(*argv: str) -> str:
    """What a command prints; nothing where it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_END_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _name(spec: SandboxSpec) -> str:
    return f"cloudcrest-{spec.id}"
