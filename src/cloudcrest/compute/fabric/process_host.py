"""Runs processes on this machine: starts, reaps and stops them, and keeps the end of their output.

Each runs in a session of its own, so a Ctrl-C in the supervisor's terminal does not reach it, and inherits
the lifeline, so it ends when this process does. When its leader ends, what is left of its process group is killed.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.machine import NODE_ID, Machine, this_machine
from cloudcrest.compute.fabric.process_log import ProcessLog, prune_logs
from cloudcrest.infra.keyed_locks import KeyedLocks
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded

MAX_PROCESSES = 512
_READ_BYTES = 65_536
_MAX_LAST_READS = 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class _Process:
    """One started process. `ended` is set once it is reaped and its output is read."""

    spec: ProcessSpec
    child: asyncio.subprocess.Process
    log: ProcessLog
    output_fd: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def status(self) -> ProcessStatus:
        ended = self.ended.is_set()
        return ProcessStatus(
            id=self.spec.id,
            state="exited" if ended else "running",
            pid=None if ended else self.child.pid,
            labels=self.spec.labels,
            exit_code=self.child.returncode if ended else None,
            log_tail=self.log.tail(),
            node_id=NODE_ID,
        )


class ProcessHost:
    """A fabric of one node, in this process. Implements `compute.api.Fabric`.

    `environment` is what every process gets (the spec's own is added); `working_folder` is where they run. `machine`
    says what this node has, and hides from processes the accelerators they are not given; None: they are left alone.
    """

    def __init__(
        self,
        *,
        log_folder: Path,
        working_folder: Path,
        lifeline: Lifeline,
        environment: Mapping[str, str],
        on_exit: Callable[[ProcessStatus], None] | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.log_folder = log_folder
        self._working_folder = working_folder
        self._lifeline = lifeline
        self._environment = dict(environment)
        self._on_exit = on_exit
        self._machine = machine
        self._processes: OrderedDict[str, _Process] = OrderedDict()
        self._locks = KeyedLocks()
        self._reapers: set[asyncio.Task[None]] = set()

    async def nodes(self) -> list[NodeFacts]:
        """This machine."""
        return [this_machine() if self._machine is None else await self._machine.facts()]

    async def start(self, spec: ProcessSpec, *, inherited_fds: Sequence[int] = ()) -> None:
        """Starts it, unless it runs already; an exited one of the same id is replaced.

        Raises `InvalidInput` where the program cannot be run, `LimitExceeded` past `MAX_PROCESSES`.
        """
        _check(spec)
        async with self._locks.held(spec.id):
            known = self._processes.get(spec.id)
            if known is not None and not known.ended.is_set():
                return
            if known is None and len(self._processes) >= MAX_PROCESSES:
                raise LimitExceeded(f"this node runs {MAX_PROCESSES} processes already", hint="stop some first")
            self._processes[spec.id] = await self._spawn(spec, inherited_fds)

    async def list(self) -> list[ProcessStatus]:
        """Every process started and not yet removed."""
        return [process.status() for process in self._processes.values()]

    def status(self, process_id: str) -> ProcessStatus | None:
        """One process, None when it is unknown."""
        process = self._processes.get(process_id)
        return None if process is None else process.status()

    async def wait(self, process_id: str) -> ProcessStatus:
        """Waits until it has ended. Raises `KeyError` for an unknown id."""
        process = self._processes[process_id]
        await process.ended.wait()
        return process.status()

    async def stop(self, process_id: str) -> None:
        """SIGTERM, SIGKILL to its group after its grace; forgets it. Unknown ids are no error.

        One that is being started is stopped once it runs; a start that comes meanwhile waits for the end.
        """
        async with self._locks.held(process_id):
            process = self._processes.get(process_id)
            if process is None:
                return
            if not process.ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    process.child.terminate()
                try:
                    await asyncio.wait_for(process.ended.wait(), process.spec.stop_grace_seconds)
                except TimeoutError:
                    _kill_group(process.child.pid)
                    await process.ended.wait()
            del self._processes[process_id]

    async def close(self) -> None:
        """Stops everything, and what is being started."""
        await asyncio.gather(*(self.stop(process_id) for process_id in {*self._processes, *self._locks.names()}))

    async def _spawn(self, spec: ProcessSpec, inherited_fds: Sequence[int]) -> _Process:
        visible = {} if self._machine is None else await self._machine.environment(spec.accelerators)
        prune_logs(self.log_folder)
        log = ProcessLog(self.log_folder, spec.id)
        read_fd, write_fd = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                cwd=self._working_folder,
                env={**self._environment, **self._lifeline.environment(), **spec.environment, **visible},
                start_new_session=True,
                pass_fds=(self._lifeline.read_fd, *inherited_fds),
            )
        except OSError as error:
            os.close(read_fd)
            log.close()
            raise InvalidInput(f"cannot run {spec.argv[0]}: {error.strerror}", param="argv") from error
        finally:
            os.close(write_fd)
        os.set_blocking(read_fd, False)
        process = _Process(spec, child, log, read_fd)
        asyncio.get_running_loop().add_reader(read_fd, self._read, process)
        reaper = asyncio.create_task(self._reap(process))
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)
        return process

    def _read(self, process: _Process) -> bool:
        """Copies what there is of its output; False when there is none now."""
        try:
            chunk = os.read(process.output_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if chunk:
            process.log.write(chunk)
            return True
        asyncio.get_running_loop().remove_reader(process.output_fd)
        return False

    async def _reap(self, process: _Process) -> None:
        await process.child.wait()
        _kill_group(process.child.pid)
        # What its group wrote is in the pipe; whoever left the group and still writes to it is not waited for.
        for _ in range(_MAX_LAST_READS):
            if not self._read(process):
                break
        asyncio.get_running_loop().remove_reader(process.output_fd)
        os.close(process.output_fd)
        process.log.close()
        process.ended.set()
        if self._on_exit is not None:
            self._on_exit(process.status())


def _check(spec: ProcessSpec) -> None:
    if not _ID.fullmatch(spec.id):
        raise InvalidInput("a process id is 1 to 100 letters, digits, dots, dashes and underscores", param="id")
    if not spec.argv:
        raise InvalidInput("a process needs a command", param="argv")


def _kill_group(leader_pid: int) -> None:
    """Kills a process group whose leader this process started; nothing left of it is no error.

    Called before or right after the leader is reaped: while any member lives the kernel does not reuse the number.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)
