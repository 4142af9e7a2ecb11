"""A runner as a process of its own, and the region's side of its HTTP."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from cloudcrest.compute.jobs.running import RUNNER_TOKEN_VARIABLE, RunnerSpec, RunnerState
from cloudcrest.serving.launching import free_port
from tests.support.waiting import until

TOKEN = "token-of-a-runner"


def python(code: str) -> tuple[str, ...]:
    """The command that runs `code`."""
    return (sys.executable, "-c", code)


def spec(command: tuple[str, ...], **changes: Any) -> RunnerSpec:
    """A member of an attempt."""
    return msgspec.structs.replace(
        RunnerSpec(attempt_id="job_1-1", member=0, command=command, grace_seconds=5.0), **changes
    )


class Runner:
    """One runner's process."""

    def __init__(self, folder: Path, isolation: str = "plain", *arguments: str) -> None:
        port = free_port()
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
        )
        argv = (
            *(sys.executable, "-m", "cloudcrest.compute.jobs.runner", "--folder", str(folder)),
            *("--port", str(port), "--isolation", isolation, *arguments),
        )
        self.process = subprocess.Popen(argv, env={**os.environ, RUNNER_TOKEN_VARIABLE: TOKEN})
        until(self._answers, "the runner answers")

    def state(self) -> RunnerState:
        return msgspec.json.decode(self.http.get("/state").content, type=RunnerState)

    def post(self, path: str, body: Any = None) -> httpx2.Response:
        return self.http.post(path, content=msgspec.json.encode(body if body is not None else {}))

    def run(self, wanted: RunnerSpec) -> None:
        """Prepares it and starts its command."""
        assert self.post("/prepare", wanted).status_code == 200
        until(lambda: self.state().phase != "preparing", "the inputs are there")
        assert self.post("/go").status_code == 200

    def ended(self) -> RunnerState:
        """Waits for the end."""
        until(lambda: self.state().phase == "ended", "the command has ended")
        return self.state()

    def log(self) -> str:
        return self.http.get("/log").text

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(httpx2.TransportError):
            return self.http.get("/state").status_code == 200
        return False


@contextlib.contextmanager
def running_runner(folder: Path, isolation: str = "plain", *arguments: str) -> Iterator[Runner]:
    """A runner until the block ends."""
    runner = Runner(folder, isolation, *arguments)
    try:
        yield runner
    finally:
        runner.close()
