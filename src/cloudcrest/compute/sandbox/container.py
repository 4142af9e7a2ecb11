"""Commands in a container image, by the node's Docker, Podman or nerdctl: no rights, no network, the same limits."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cloudcrest.compute.sandbox.api import SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.compute.sandbox.limiting import how_it_ended
from cloudcrest.compute.sandbox.view import WORK
from cloudcrest.kernel.errors import InvalidInput, SetupError, Unavailable

RUNTIMES = ("podman", "docker", "nerdctl")
_PROBE_SECONDS = 5.0
_PULL_SECONDS = 1800.0
_NOBODY = "65534:65534"
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


def run_argv(runtime: str, spec: SandboxSpec, environment_file: Path) -> tuple[str, ...]:
    """The command line: a new container for this command alone, removed with its end."""
    argv = [
        runtime, "run", "--rm", "--name", _name(spec), "--pull", "never", "--user", _NOBODY, "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--network", "none", "--ipc", "private", "--pids-limit",
        str(spec.processes or -1), "--read-only", "--tmpfs", _TEMPORARY, "--init", "--workdir", WORK,
        "--env-file", str(environment_file), "--volume", f"{spec.work_folder}:{WORK}", "--entrypoint", "",
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
        environment_file = spec.work_folder.parent / f"{_name(spec)}.env"
        environment_file.touch(mode=0o600)
        lines = [f"{name}={value}" for name, value in spec.environment.items()]
        environment_file.write_text("\n".join(lines))
        try:
            child = await asyncio.create_subprocess_exec(
                *run_argv(self.isolation, spec, environment_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                start_new_session=True,
            )
        except OSError as error:
            environment_file.unlink()
            raise Unavailable(f"{self.isolation} does not run: {error}") from error
        return _Container(self.isolation, _name(spec), child, environment_file)

    async def _pull(self, image: str) -> None:
        if await _succeeds(self.isolation, "image", "inspect", image):
            return
        if not await _succeeds(self.isolation, "pull", image, seconds=_PULL_SECONDS):
            raise InvalidInput(f"the image '{image}' cannot be fetched", param="image")


class _Container:
    """Implements `sandbox.api.SandboxProcess` over a client that waits for its container."""

    def __init__(self, runtime: str, name: str, child: asyncio.subprocess.Process, environment_file: Path) -> None:
        self._runtime = runtime
        self._name = name
        self._child = child
        self._environment_file = environment_file

    async def wait(self) -> SandboxEnd:
        code = await self._child.wait()
        self._environment_file.unlink(missing_ok=True)
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
        return _Container(self._runtime, self._name, child, self._environment_file)

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


def _name(spec: SandboxSpec) -> str:
    return f"cloudcrest-{spec.id}"
