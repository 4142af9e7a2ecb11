"""Commands held by bubblewrap: another user without rights, a view of named folders alone, no network but the proxy's.

    runner ── bwrap ─┬─ init of its own process namespace ── command and what it starts
                     └─ namespaces: user, mounts, processes, network, IPC, host name
           ── a filter of system calls (filter.py)
           ── control group (cgroup.py), else rlimits
           ── proxy.py on a socket that is in its network, where it may connect to something
           ── a device in its network, where it is one of several members

Nothing of it outlives the runner: bubblewrap dies with its parent, and all of the namespace with its init.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import psutil

from cloudcrest.compute.sandbox.api import Reach, SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.compute.sandbox.cgroup import PREFIX, Cgroup, new_cgroup
from cloudcrest.compute.sandbox.filter import filter_for
from cloudcrest.compute.sandbox.giving import give, in_memory
from cloudcrest.compute.sandbox.inside import NAMESPACES, device_inside, listen_inside
from cloudcrest.compute.sandbox.limiting import how_it_ended, limited
from cloudcrest.compute.sandbox.plain import tree_usage
from cloudcrest.compute.sandbox.probe import probe_network
from cloudcrest.compute.sandbox.proxy import PORT, Proxy, proxied
from cloudcrest.compute.sandbox.shim import STAGE
from cloudcrest.compute.sandbox.view import FILES, NOBODY, WORK, bubblewrap_argv, environment_of
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.kernel.errors import Conflict, InvalidInput, Unavailable

_START_SECONDS = 10.0
_LOOK_SECONDS = 0.005


class Bubblewrap:
    """Implements `sandbox.api.Sandbox`. `policy`: which addresses the proxy may call."""

    isolation = "bubblewrap"
    has_own_view = True

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        problem = await asyncio.to_thread(probe_network)
        return ("none", problem) if problem else ("private", "")

    async def fetch(self, image: str) -> None:
        """Nothing: it runs none."""

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it, when its network and its limits are there."""
        cgroup = await asyncio.to_thread(new_cgroup, f"{PREFIX}{spec.id}")
        if cgroup is not None:
            cgroup.limit(cpu_milli=spec.cpu_milli, memory_bytes=spec.memory_bytes, processes=spec.processes)
        proxy: Proxy | None = None
        if spec.allowed_hosts:
            proxy = Proxy(spec.allowed_hosts, self._policy)
            spec = proxied(spec)
        info_read, info_write = os.pipe()
        block_read, block_write = os.pipe()
        opened = [info_read, info_write, block_read, block_write]
        try:
            places = await asyncio.to_thread(self._stage, spec)
            files = {name: in_memory(text.encode()) for name, text in FILES.items()}
            opened += files.values()
            argv = bubblewrap_argv(spec, files, places)
            filtered = _filter()
            opened += filtered
            seccomp = [word for fd in filtered for word in ("--seccomp", str(fd))]
            told = _words((*argv, *seccomp, "--info-fd", str(info_write), "--block-fd", str(block_read)))
            opened.append(told)
            command = ("bwrap", "--args", str(told), *spec.argv)
            child = await asyncio.create_subprocess_exec(
                *limited(
                    command,
                    spec,
                    cgroup,
                    user=NOBODY if os.geteuid() == 0 else 0,
                    stage=[(str(source), place) for source, place in places.items() if str(source) != place],
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
                pass_fds=(told, info_write, block_read, *filtered, *files.values()),
            )
            os.close(info_write)
            opened.remove(info_write)
            process = BubblewrapProcess(spec, child, cgroup, proxy)
            await process.settle(info_read, block_write)
        except OSError as error:
            if cgroup is not None:
                cgroup.remove()
            raise Unavailable(f"the sandbox cannot be made: {error}") from error
        finally:
            for fd in opened:
                os.close(fd)
        return process

    def _stage(self, spec: SandboxSpec) -> dict[Path, str]:
        """Where bubblewrap finds the folders it is given. Where this process is root the command is not: what is in
        them becomes its own, and is mounted where it can walk to (shim.py). Raises `OSError`.
        """
        folders = (spec.work_folder, *(bind.source for bind in spec.binds))
        if os.geteuid() != 0:
            return {folder: str(folder) for folder in folders}
        places = {}
        for number, folder in enumerate(dict.fromkeys(folders)):
            give(folder)
            places[folder] = f"{STAGE}/{number}"
        return places


class BubblewrapProcess:
    """Implements `sandbox.api.SandboxProcess`."""

    def __init__(
        self, spec: SandboxSpec, child: asyncio.subprocess.Process, cgroup: Cgroup | None, proxy: Proxy | None
    ) -> None:
        self._spec = spec
        self._child = child
        self._cgroup = cgroup
        self._proxy = proxy
        self._init_pid = 0
        self._command_pid = 0
        self._peak_bytes = 0
        self._last = SandboxUsage()

    async def settle(self, info_fd: int, block_fd: int) -> None:
        """Waits until its namespaces are there, connects its network, lets the command go. Where it ends before, its
        end says so.
        """
        said = await asyncio.to_thread(_read_info, info_fd)
        if said is None:
            return
        self._init_pid = said
        try:
            if self._proxy is not None:
                await self._proxy.serve(await asyncio.to_thread(listen_inside, said, PORT))
            if (network := self._spec.network) is not None:
                network.attach(await asyncio.to_thread(device_inside, said, network))
        except OSError as error:
            self.kill()
            raise Unavailable(f"the sandbox's network cannot be reached: {error}") from error
        os.write(block_fd, b"1")
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while self._child.returncode is None and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(psutil.Error):
                if children := psutil.Process(said).children():
                    self._command_pid = min(each.pid for each in children)
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def wait(self) -> SandboxEnd:
        code = await self._child.wait()
        self.usage()
        is_out_of_memory = False
        if self._cgroup is not None:
            self._cgroup.kill()
            is_out_of_memory = self._cgroup.was_out_of_memory()
            await asyncio.to_thread(self._cgroup.remove)
            self._cgroup = None
        if self._proxy is not None:
            await self._proxy.close()
        exit_code, by_signal = how_it_ended(code)
        return SandboxEnd(exit_code, by_signal, is_out_of_memory and by_signal == signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self._child.returncode is None and self._command_pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._command_pid, number)

    def kill(self) -> None:
        for pid in (self._init_pid, self._child.pid):
            if pid and self._child.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.kill()

    def usage(self) -> SandboxUsage:
        if self._cgroup is not None:
            found = self._cgroup.usage()
        elif self._child.returncode is None:
            found = tree_usage(self._child.pid)
        else:
            found = self._last
        self._peak_bytes = max(self._peak_bytes, found.memory_peak_bytes)
        self._last = msgspec.structs.replace(
            found,
            memory_peak_bytes=self._peak_bytes,
            sent_bytes=0 if self._proxy is None else self._proxy.sent_bytes,
            received_bytes=0 if self._proxy is None else self._proxy.received_bytes,
        )
        return self._last

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> SandboxProcess:
        if self._child.returncode is not None or not self._command_pid:
            raise Conflict("the command has ended")
        # Its environment is its owner's words: what runs out here, before it is inside, must not be started with it.
        told = _words(
            f"{name}={value}" for name, value in {**environment_of(self._spec, home=WORK), **environment}.items()
        )
        filtered = _filter()
        command = ("enter", str(self._command_pid), WORK, str(told), ",".join(map(str, filtered)), *argv)
        inside = (sys.executable, "-I", "-S", NAMESPACES, *command)
        try:
            child = await asyncio.create_subprocess_exec(
                *limited(inside, self._spec, self._cgroup),
                stdin=terminal_fd,
                stdout=terminal_fd,
                stderr=terminal_fd,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
                pass_fds=(told, *filtered),
            )
        except OSError as error:
            raise InvalidInput(f"cannot run {argv[0]}: {error.strerror}", param="command") from error
        finally:
            for fd in (told, *filtered):
                os.close(fd)
        return _Entered(child)


class _Entered:
    """A program beside the command, in its namespaces; it ends when they do."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def wait(self) -> SandboxEnd:
        exit_code, by_signal = how_it_ended(await self._child.wait())
        return SandboxEnd(exit_code, by_signal)

    def signal(self, number: int) -> None:
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def usage(self) -> SandboxUsage:
        return tree_usage(self._child.pid)

    async def enter(self, *_: object) -> SandboxProcess:
        raise Conflict("a program beside the command has no terminals of its own")


def _words(arguments: Iterable[str]) -> int:
    """A file with these arguments, each ended by NUL: everyone on this machine could read a command line."""
    return in_memory(b"".join(argument.encode() + b"\0" for argument in arguments))


def _filter() -> list[int]:
    """A file with the filter of system calls; none where this machine's processor has none."""
    program = filter_for(os.uname().machine)
    return [in_memory(program)] if program else []


def _read_info(fd: int) -> int | None:
    """The process id of its init, outside; None: it ended before it had one."""
    text = b""
    while chunk := os.read(fd, 4096):
        text += chunk
        with contextlib.suppress(ValueError):
            return int(json.loads(text)["child-pid"])
    return None
