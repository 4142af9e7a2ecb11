"""One member of one attempt, from its inputs to its end. The order of things, and what is written down when.

waiting ─ prepare ─► preparing ─► ready ─ go ─► running ─► ended
                          └──────── stop, or a fault ───────┘
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import structlog

from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.runner.chips import Chips, GivenChips
from cloudcrest.compute.jobs.runner.disk import DiskPromise
from cloudcrest.compute.jobs.runner.log import SegmentedLog
from cloudcrest.compute.jobs.runner.meter import Meter
from cloudcrest.compute.jobs.runner.network import MembersNetwork
from cloudcrest.compute.jobs.runner.record import Recorder
from cloudcrest.compute.jobs.runner.shells import Shell, Shells
from cloudcrest.compute.jobs.runner.work import fetch, list_outputs, receive
from cloudcrest.compute.jobs.running import End, Go, Input, Mount, Outputs, RunnerPhase, RunnerSpec, RunnerState, Stop
from cloudcrest.compute.sandbox.api import Bind, Network, Sandbox, SandboxEnd, SandboxProcess, SandboxSpec, SandboxUsage
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.infra.safe_paths import folder_bytes, open_folder
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, Conflict, NotFound, SetupError, TooLarge
from cloudcrest.kernel.ids import new_id
from cloudcrest.kernel.units import GIB, format_bytes

MARK_SECONDS = 2.0
MEASURE_DISK_SECONDS = 20.0
MAX_PROCESSES = 4096
_READ_BYTES = 65_536
_MAX_LAST_READS = 256
_DEFAULT_DISK_BYTES = 10 * GIB
_log = structlog.get_logger(__name__)


class Member:
    """Runs it in `folder`, through `sandbox`. `chips`: what its command gets of this node's; `host`: its address."""

    def __init__(
        self,
        folder: Path,
        sandbox: Sandbox,
        clock: Clock,
        settings: RunSettings,
        *,
        policy: OutboundPolicy,
        chips: Chips | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.work = folder / "work"
        self.shells = Shells(new_id)
        self.phase: RunnerPhase = "waiting"
        self._folder = folder
        self._sandbox = sandbox
        self._clock = clock
        self._settings = settings
        self._policy = policy
        self._chips = chips or Chips({}, {})
        self._recorder = Recorder(folder, clock)
        self._disk = DiskPromise(folder)
        self._network = MembersNetwork(host)
        self._log = SegmentedLog(folder / "log")
        self._log_grew = asyncio.Event()
        self._spec: RunnerSpec | None = None
        self._detail = ""
        self._needs: dict[str, Input] = {}
        self._has_inputs = asyncio.Event()
        self._received_bytes = 0
        self._process: SandboxProcess | None = None
        self.meter = Meter(clock, self._chips.families)
        self._is_over = asyncio.Event()
        self._stopping: Stop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparing: asyncio.Task[None] | None = None
        if self._recorder.recover():
            self.phase = "ended"

    def state(self) -> RunnerState:
        """How it is."""
        return RunnerState(
            self.phase,
            self._recorder.record,
            self._detail,
            self._sandbox.isolation,
            tuple(self._needs) if self.phase == "preparing" else (),
            self._network.found,
        )

    def prepare(self, spec: RunnerSpec) -> None:
        """Begins with its inputs. The same attempt again changes nothing. Raises `Conflict` for another."""
        known = self._recorder.record
        if known.attempt_id and (known.attempt_id, known.member) != (spec.attempt_id, spec.member):
            raise Conflict("this runner is another attempt's")
        if self.phase != "waiting":
            return
        self._spec = spec
        self._recorder.prepared_for(spec.attempt_id, spec.member)
        self.phase = "preparing"
        self._needs = {wanted.path: wanted for wanted in spec.inputs if wanted.is_handed_in}
        self._preparing = self._spawn(self._prepare(spec))

    async def receive(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """Takes an input that the region hands in. Raises `NotFound` for one it does not wait for."""
        wanted = self._needs.get(path)
        if wanted is None or self._spec is None:
            raise NotFound(f"no input '{path}' is waited for")
        try:
            self._received_bytes += await receive(wanted, self.work, pieces, self._room(self._spec))
        except CloudcrestError as error:
            self._end(End("prepare", str(error)))
            raise
        self._needs.pop(path, None)
        if not self._needs:
            self._has_inputs.set()

    async def go(self, order: Go) -> None:
        """Starts the command; again changes nothing. Raises `Conflict` before it is ready."""
        if self.phase in ("running", "ended"):
            return
        spec = self._spec
        if self.phase != "ready" or spec is None:
            raise Conflict("the member is not ready")
        self.phase, self._detail = "running", order.detail
        has_view = bool(spec.image) or self._sandbox.has_own_view  # a container always has
        paths = {mount.variable: mount.target if has_view else mount.source for mount in spec.mounts if mount.variable}
        read_fd, write_fd = os.pipe()
        try:
            chips = await self._chips.given(spec.accelerators, has_view=has_view)
            environment = {**spec.environment, **spec.secrets, **order.environment, **paths, **chips.environment}
            # Before the command: what has run without a record would not be charged.
            self._recorder.started()
            network = self._network.join(order.gang, spec.member)
            wanted = self._sandbox_spec(spec, environment, chips, network)
            self._process = await self._sandbox.start(wanted, write_fd)
        except (CloudcrestError, OSError) as error:
            os.close(read_fd)
            # A command that is not there has not run.
            self._recorder.prepared_for(spec.attempt_id, spec.member)
            self._end(End("prepare", f"the command cannot be started: {error}"))
            return
        finally:
            os.close(write_fd)
        self._spawn(self._run(spec, self._process, read_fd))
        if self._stopping is not None:  # it was asked for while the command was being started
            self._spawn(self._terminate())

    def stop(self, order: Stop) -> None:
        """Ends it, with its grace. The first reason holds."""
        if self.phase == "ended" or self._stopping is not None:
            return
        self._stopping = order
        if self._process is not None:
            self._spawn(self._terminate())
        elif self.phase != "running":
            self._end(End(order.why, order.message))

    async def settle(self) -> None:
        """Waits for its end, and leaves the network of its attempt: until then what it has sent still arrives."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._network.close()

    async def read_log(self, offset: int, most_bytes: int, wait_seconds: float) -> tuple[int, bytes]:
        """Output from `offset`, waiting for some while it runs."""
        if offset >= self._log.end and self.phase != "ended" and wait_seconds > 0:
            self._log_grew.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._log_grew.wait(), wait_seconds)
        return self._log.read(offset, most_bytes)

    async def outputs(self) -> Outputs:
        """What it wrote into its output folders."""
        folders = self._spec.outputs if self._spec is not None else ("outputs",)
        return await asyncio.to_thread(list_outputs, self.work, folders, self._settings)

    async def open_shell(self, argv: tuple[str, ...], columns: int, rows: int) -> Shell:
        """A terminal beside the command. Raises `Conflict` where it does not run."""
        if self.phase != "running" or self._process is None:
            raise Conflict("a shell needs a running job", hint="this one is not running")
        return await self.shells.open(self._process, argv, columns, rows)

    async def forget(self) -> None:
        """Removes what it left on this node. Raises `Conflict` before its end."""
        if self.phase != "ended":
            raise Conflict("the member has not ended")
        await self._network.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _prepare(self, spec: RunnerSpec) -> None:
        try:
            # Where there is no room it is its node's fault: it is tried again, there or elsewhere.
            if spec.disk_bytes and (problem := await asyncio.to_thread(self._disk.take, spec.disk_bytes)):
                self._end(End("lost", problem))
                return
            self.work.mkdir(mode=0o700, exist_ok=True)
            for folder in spec.outputs:
                os.close(open_folder(self.work, folder, make=True))
            for wanted in spec.inputs:
                if wanted.url:
                    self._detail = f"fetches {wanted.path}"
                    self._received_bytes += await fetch(wanted, self.work, self._policy, self._room(spec))
            if spec.image:  # before its start: the time that this takes is not charged
                self._detail = "fetches its image"
                await self._sandbox.fetch(spec.image)
            if self._needs:
                self._detail = "waits for its input files"
                await self._has_inputs.wait()
            for mount in spec.mounts:
                await asyncio.to_thread(_require_folder, mount)
            await self._network.prepare(spec, self._sandbox)
        except (CloudcrestError, OSError) as error:
            self._end(End("prepare", str(error)))
            return
        if self.phase == "preparing":
            self._detail = ""
            self.phase = "ready"

    def _room(self, spec: RunnerSpec) -> int:
        return (spec.disk_bytes or _DEFAULT_DISK_BYTES) - self._received_bytes

    def _sandbox_spec(
        self, spec: RunnerSpec, environment: dict[str, str], chips: GivenChips, network: Network | None
    ) -> SandboxSpec:
        return SandboxSpec(
            id=sandbox_id(spec.attempt_id, spec.member),
            argv=spec.command,
            work_folder=self.work,
            environment=environment,
            binds=tuple(Bind(Path(mount.source), mount.target, mount.is_writable) for mount in spec.mounts),
            image=spec.image,
            cpu_milli=spec.cpu_milli,
            memory_bytes=spec.memory_bytes,
            processes=MAX_PROCESSES,
            allowed_hosts=spec.allowed_hosts,
            accelerators=spec.accelerators,
            devices=chips.devices,
            shown=chips.shown,
            network=network,
        )

    async def _run(self, spec: RunnerSpec, process: SandboxProcess, output_fd: int) -> None:
        loop = asyncio.get_running_loop()
        os.set_blocking(output_fd, False)
        loop.add_reader(output_fd, self._read, output_fd)
        watching = [asyncio.create_task(self._watch(spec, process))]
        if spec.has_whole_chips:
            watching.append(asyncio.create_task(self.meter.watch_chips(spec.accelerators)))
        try:
            ended = await process.wait()
        finally:
            for each in watching:
                each.cancel()
            for _ in range(_MAX_LAST_READS):
                if not self._read(output_fd):
                    break
            loop.remove_reader(output_fd)
            os.close(output_fd)
        await self.shells.close_all()
        self._end(_end_of(ended, self._stopping, spec))

    def _read(self, output_fd: int) -> bool:
        try:
            chunk = os.read(output_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            asyncio.get_running_loop().remove_reader(output_fd)
            return False
        self._log.write(chunk)
        self._log_grew.set()
        return True

    async def _watch(self, spec: RunnerSpec, process: SandboxProcess) -> None:
        """Measures and marks; ends it at its time limit and where it fills the disk."""
        started, measured_at = self._clock.monotonic(), float("-inf")
        while True:
            usage = process.usage()
            self.meter.used(usage)
            try:
                self._recorder.mark(usage)
            except (OSError, SetupError) as error:
                _log.warning("mark_not_written", error=str(error))
            now = self._clock.monotonic()
            ran = now - started
            if spec.time_limit_seconds is not None and ran >= spec.time_limit_seconds:
                self.stop(Stop("time_limit", f"it ran for its time limit of {spec.time_limit_seconds:g} s"))
            if now - measured_at >= MEASURE_DISK_SECONDS:
                measured_at = now
                try:
                    used = await asyncio.to_thread(folder_bytes, self.work)
                    self.meter.holds(used)
                    self._disk.wrote(used)
                    too_much = await asyncio.to_thread(_too_much, used, spec)
                except TooLarge as error:
                    too_much = error.message
                if too_much:
                    self.stop(Stop("disk", too_much))
            left = MARK_SECONDS if spec.time_limit_seconds is None else spec.time_limit_seconds - ran
            await asyncio.sleep(min(MARK_SECONDS, max(left, 0.05)))

    async def _terminate(self) -> None:
        assert self._process is not None  # noqa: S101 - it runs
        assert self._spec is not None  # noqa: S101
        grace = self._spec.grace_seconds if self._stopping and self._stopping.why not in ("disk", "lost") else 2.0
        self._process.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._is_over.wait(), grace)
        except TimeoutError:
            self._process.kill()

    def _end(self, end: End) -> None:
        if self.phase == "ended":
            return
        self.phase = "ended"
        self._log.close()
        self._disk.release()
        self._detail = ""
        try:
            self._recorder.ended(end, SandboxUsage() if self._process is None else self._process.usage())
        except (OSError, SetupError) as error:
            _log.error("end_not_written", error=str(error))
        self._log_grew.set()
        self._is_over.set()
        if self._preparing is not None and self._preparing is not asyncio.current_task():
            self._preparing.cancel()  # it may wait for an input that comes no more

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def sandbox_id(attempt_id: str, member: int) -> str:
    """What a member's sandbox is called on its node."""
    return f"{attempt_id}-{member}"


def _require_folder(mount: Mount) -> None:
    """Makes a folder that is to be made. Raises `NotFound` where another is not there."""
    source = Path(mount.source)
    if mount.is_made:
        source.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not source.is_dir():
        raise NotFound(f"there is no {mount.name}", hint="make it first")


def _too_much(used: int, spec: RunnerSpec) -> str | None:
    """What is over its limit on disk, in a sentence. `used`: by its work folder."""
    most = spec.disk_bytes or _DEFAULT_DISK_BYTES
    if used > most:
        return f"its work folder holds {format_bytes(used)}, and it asked for {format_bytes(most)} of disk"
    for mount in spec.mounts:
        if mount.is_writable and mount.quota_bytes:
            held = folder_bytes(Path(mount.source))
            if held > mount.quota_bytes:
                return f"{mount.name} holds {format_bytes(held)}, and may hold {format_bytes(mount.quota_bytes)}"
    return None


def _end_of(ended: SandboxEnd, stopping: Stop | None, spec: RunnerSpec) -> End:
    """How it ended, in the words of its owner."""
    if stopping is not None:
        return End(stopping.why, stopping.message, ended.exit_code, ended.signal)
    if ended.is_out_of_memory:
        limit = f"its {format_bytes(spec.memory_bytes)}" if spec.memory_bytes else "this node"
        return End("out_of_memory", f"it needed more memory than {limit}", ended.exit_code, ended.signal)
    if ended.signal is not None:
        name = signal.Signals(ended.signal).name if ended.signal in set(signal.Signals) else str(ended.signal)
        return End("signal", f"it was ended by {name}", None, ended.signal)
    return End("exit", f"it exited with code {ended.exit_code}", ended.exit_code)
