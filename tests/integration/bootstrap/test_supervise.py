"""The supervisor keeps services running, and says when one cannot."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from cloudcrest.bootstrap.supervise import Service, Supervisor, pause_before_restart
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.lifeline import EXIT_SETUP, Lifeline
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import SetupError
from tests.integration.compute.processes import SLEEPER, is_alive, python
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


@pytest.fixture
async def supervisor(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Supervisor]:
    lifeline = Lifeline()
    host = ProcessHost(log_folder=tmp_path, working_folder=tmp_path, lifeline=lifeline, environment=os.environ)
    supervisor = Supervisor(host, SystemClock(), lambda: None)
    yield supervisor
    await supervisor.stop("service")
    await host.close()
    lifeline.close()


def service(argv: tuple[str, ...]) -> Service:
    return Service(ProcessSpec(id="service", argv=argv))


async def test_what_is_killed_is_started_again(supervisor: Supervisor) -> None:
    supervisor.start(service(SLEEPER))
    for _ in range(3):
        await until_async(lambda: "service" in supervisor.pids(), "the service's start")
        pid = supervisor.pids()["service"]
        os.kill(pid, signal.SIGKILL)
        await until_async(lambda pid=pid: supervisor.pids().get("service", pid) != pid, "its restart")  # type: ignore[misc]


async def test_what_is_stopped_stays_so(supervisor: Supervisor) -> None:
    supervisor.start(service(SLEEPER))
    await until_async(lambda: "service" in supervisor.pids(), "the service's start")
    pid = supervisor.pids()["service"]
    await supervisor.stop("service")
    assert not is_alive(pid)
    assert supervisor.pids() == {}
    await supervisor.stop("service")


async def test_a_service_that_keeps_ending_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(service(python("import sys; print('no room'); sys.exit(1)")))
    with anyio.fail_after(30):
        error = await supervisor.broken()
    assert "service keeps ending right after its start (exit code 1): no room" in str(error)


async def test_a_setup_error_is_reported_at_once_in_its_own_words(supervisor: Supervisor) -> None:
    code = f"import sys; print('setup error: the disk is full (free some)'); sys.exit({EXIT_SETUP})"
    supervisor.start(service(python(code)))
    with anyio.fail_after(30):
        error = await supervisor.broken()
    assert str(error) == "the disk is full (free some)"


async def test_what_cannot_be_prepared_is_reported(supervisor: Supervisor) -> None:
    def prepare() -> None:
        raise SetupError("the folder is of another version")

    supervisor.start(Service(ProcessSpec(id="service", argv=(sys.executable,)), prepare=prepare))
    with anyio.fail_after(30):
        assert "another version" in str(await supervisor.broken())


def test_pauses_grow_to_a_bound() -> None:
    pauses = [pause_before_restart(failures) for failures in range(1, 100)]
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
