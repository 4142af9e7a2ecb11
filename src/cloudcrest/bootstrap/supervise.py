"""Keeps the processes that are always there running: one that ends is started again, sooner at first than later."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cloudcrest.compute.api import ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.lifeline import EXIT_SETUP, SETUP_ERROR_PREFIX
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, SetupError

FAILURES_UNTIL_BROKEN = 6
_STEADY_AFTER_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)


def pause_before_restart(failures: int) -> float:
    """Seconds to wait before the start that follows `failures` ends in a row."""
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))


@dataclass(frozen=True)
class Service:
    """A process that is always there. `prepare` blocks and runs before each start; it may raise `SetupError`."""

    spec: ProcessSpec
    inherited_fds: tuple[int, ...] = ()
    prepare: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        return self.spec.id


class Supervisor:
    """Runs services on a process host. `on_change` is called when a process came or went."""

    def __init__(self, host: ProcessHost, clock: Clock, on_change: Callable[[], None]) -> None:
        self._host = host
        self._clock = clock
        self._on_change = on_change
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._pids: dict[str, int] = {}
        self._broken: asyncio.Future[SetupError] = asyncio.get_running_loop().create_future()

    def start(self, service: Service) -> None:
        """Starts it and keeps it running until `stop`."""
        self._keepers[service.name] = asyncio.create_task(self._keep(service))

    def pids(self) -> dict[str, int]:
        """The pids of what runs, by name."""
        return dict(self._pids)

    async def broken(self) -> SetupError:
        """Returns why, once a service says that it cannot run here or keeps ending right after its start."""
        return await asyncio.shield(self._broken)

    async def stop(self, name: str) -> None:
        """Stops it for good; returns when it is gone. Unknown names are no error."""
        keeper = self._keepers.pop(name, None)
        if keeper is None:
            return
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await self._host.stop(name)
        self._pids.pop(name, None)

    async def _keep(self, service: Service) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                status = await self._run_once(service)
            except (CloudcrestError, OSError) as error:
                # OSError: no room for its log, no file descriptors, no memory for a process. That may pass.
                status = None
                if isinstance(error, SetupError):
                    self._break(error)
                _log.error("service_not_started", service=service.name, error=str(error))
            if self._clock.monotonic() - began > _STEADY_AFTER_SECONDS:
                failures = 0
            failures += 1
            if status is not None:
                self._note_end(service, status, failures)
            await asyncio.sleep(pause_before_restart(failures))

    async def _run_once(self, service: Service) -> ProcessStatus:
        if service.prepare is not None:
            await asyncio.to_thread(service.prepare)
        await self._host.start(service.spec, inherited_fds=service.inherited_fds)
        running = self._host.status(service.name)
        if running is not None and running.pid is not None:
            self._pids[service.name] = running.pid
            self._on_change()
        status = await self._host.wait(service.name)
        self._pids.pop(service.name, None)
        self._on_change()
        return status

    def _note_end(self, service: Service, status: ProcessStatus, failures: int) -> None:
        _log.warning("service_ended", service=service.name, exit_code=status.exit_code, failures=failures)
        last = status.log_tail.splitlines()[-1] if status.log_tail else "it wrote nothing"
        if status.exit_code == EXIT_SETUP:
            self._break(SetupError(last.partition(SETUP_ERROR_PREFIX)[2] or last))
        elif failures >= FAILURES_UNTIL_BROKEN:
            self._break(
                SetupError(
                    f"{service.name} keeps ending right after its start (exit code {status.exit_code}): {last[:300]}",
                    hint=f"see {self._host.log_folder / service.name}.log",
                )
            )

    def _break(self, error: SetupError) -> None:
        if not self._broken.done():
            self._broken.set_result(error)
