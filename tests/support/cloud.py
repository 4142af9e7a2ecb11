"""A whole cloud as `cloudcrest up` starts it: a folder of its own, a free port, the weights that all tests share."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import psutil
import pytest

from tests.support.waiting import until
from tests.support.weights import models_folder

START_SECONDS = 150.0
STOP_SECONDS = 40.0


class UpState(msgspec.Struct):
    """What `up` writes about itself."""

    pid: int
    base_url: str
    socket_folder: str
    is_ready: bool = False
    processes: dict[str, int] = {}


class _Connection(msgspec.Struct):
    base_url: str
    api_key: str
    operator_key: str


@dataclass
class Cloud:
    """A cloud on this machine. `data` is its data folder, `output` what `up` printed."""

    data: Path
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    up: "subprocess.Popen[bytes] | None" = None

    @property
    def output(self) -> str:
        return (self.data.parent / "up.output").read_text()

    @property
    def connection(self) -> _Connection:
        return msgspec.json.decode((self.data / "connection.json").read_bytes(), type=_Connection)

    @property
    def base_url(self) -> str:
        return self.connection.base_url

    @property
    def api_key(self) -> str:
        return self.connection.api_key

    @property
    def operator_key(self) -> str:
        return self.connection.operator_key

    def command(self, *more: str) -> list[str]:
        """The command that starts it."""
        flags = ["--data", str(self.data), "--port", "0", *self.flags, *more]
        return [sys.executable, "-m", "cloudcrest.bootstrap", "up", *flags]

    def variables(self) -> dict[str, str]:
        """The environment it is started with: nothing of the developer's own cloud."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST_")}
        # All tenants of a run sign up from one address.
        many = {"CLOUDCREST_ATTEMPTS_PER_ADDRESS": "10000"}
        return {**clean, **many, "CLOUDCREST_MODELS_FOLDER": str(models_folder()), **self.environment}

    def start(self) -> None:
        """Starts it and waits until it is ready; fails with its output when it is not."""
        with (self.data.parent / "up.output").open("wb") as output:
            self.up = subprocess.Popen(self.command(), stdout=output, stderr=output, env=self.variables())
        up = self.up
        until(lambda: up.poll() is not None or self._is_ready(up.pid), "the cloud's start", seconds=START_SECONDS)
        if up.poll() is not None:
            raise AssertionError(f"up ended with {up.returncode}:\n{self.output}")

    def stop(self) -> int:
        """Stops it in order; the exit code of `up`."""
        assert self.up is not None
        self.up.send_signal(signal.SIGTERM)
        return self.up.wait(STOP_SECONDS)

    def kill(self) -> None:
        """kill -9 of `up`, and waits for everything it ran to end."""
        assert self.up is not None
        tree = self.tree()
        self.up.kill()
        self.up.wait(STOP_SECONDS)
        until(lambda: not _alive(tree), "the end of everything that up ran", seconds=STOP_SECONDS)

    def state(self) -> UpState | None:
        """`run/up.json`; None when there is none."""
        try:
            return msgspec.json.decode((self.data / "run" / "up.json").read_bytes(), type=UpState)
        except (OSError, msgspec.DecodeError):
            return None

    def pid_of(self, process: str) -> int:
        """The pid of control, region, gateway or postgres (its guard), once it runs."""

        def look() -> int | None:
            state = self.state()
            return None if state is None else state.processes.get(process)

        return until(look, f"the start of {process}") or 0

    def children_of(self, process: str) -> list[int]:
        """The pids of what one of those started: the postmaster, for postgres."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid_of(process)).children()]
        return []

    def replica_pids(self, task: str = "") -> list[int]:
        """The pids of the replicas' processes: all of them, or those for "chat" or "embedding"."""
        found = {process.pid: " ".join(_argv(process)) for process in self.tree()}
        wanted = f'"task":"{task}"' if task else ""
        return [pid for pid, argv in found.items() if "cloudcrest.serving.engines" in argv and wanted in argv]

    def tree(self) -> list[psutil.Process]:
        """Every process below `up`."""
        assert self.up is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.up.pid).children(recursive=True)
        return []

    def client(self, key: str | None = None) -> httpx2.Client:
        """A client with the first key, or another."""
        headers = {"authorization": f"Bearer {key or self.api_key}"}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=60, trust_env=False)

    def _is_ready(self, pid: int) -> bool:
        state = self.state()
        return state is not None and state.pid == pid and state.is_ready


@contextmanager
def new_cloud(*, flags: Sequence[str] = (), environment: dict[str, str] | None = None) -> Iterator[Cloud]:
    """A cloud that is not started yet; ended and removed afterwards. Its folder's path is short, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="cloud"))
    models_folder().mkdir(parents=True, exist_ok=True)
    cloud = Cloud(folder / "data", tuple(flags), environment or {})
    try:
        yield cloud
    finally:
        if cloud.up is not None and cloud.up.poll() is None:
            tree = cloud.tree()
            try:
                cloud.stop()
            except subprocess.TimeoutExpired:
                cloud.up.kill()
            for process in _alive(tree):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """One running cloud for all tests that leave it as it is."""
    with new_cloud() as started:
        started.start()
        yield started


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and _status(process) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
