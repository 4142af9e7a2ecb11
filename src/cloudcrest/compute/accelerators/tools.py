"""Asks this machine: vendors' command-line tools and files, bounded in time and output."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import structlog

RUN_SECONDS = 20.0
"""A driver that was just loaded takes seconds; one that hangs is not waited for."""
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
_USUAL_FOLDERS = ("/usr/local/bin", "/usr/local/sbin", "/opt/rocm/bin", "/opt/hyhal/bin", "/opt/mxdriver/bin")
"""Where vendors put their tools without adding to PATH."""
_log = structlog.get_logger(__name__)


class MachineTools:
    """This machine. Implements `accelerators.api.Tools`."""

    def __init__(self, *, run_seconds: float = RUN_SECONDS, max_output_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._run_seconds = run_seconds
        self._max_output_bytes = max_output_bytes

    def run(self, *argv: str) -> str | None:
        """What a command prints; None where there is none, it fails, takes too long or says too much."""
        path = shutil.which(argv[0], path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_USUAL_FOLDERS)))
        if path is None:
            return None
        try:
            process = subprocess.Popen(
                [path, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            _log.warning("accelerator_tool_failed", tool=argv[0], error=str(error))
            return None
        # What it started itself holds the pipe, too: the whole group goes, and the read below ends.
        timer = threading.Timer(self._run_seconds, _kill_group, (process.pid,))
        timer.start()
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            output = process.stdout.read(self._max_output_bytes + 1)
            if len(output) <= self._max_output_bytes:
                process.wait()
        finally:
            timer.cancel()
            _kill_group(process.pid)
            process.wait()
            process.stdout.close()
        if process.returncode != 0:
            _log.warning("accelerator_tool_failed", tool=argv[0], exit_code=process.returncode)
            return None
        return output.decode("utf-8", "replace")

    def read(self, path: str) -> str | None:
        """A file's text up to the bound, None where it cannot be read."""
        try:
            with Path(path).open("rb") as file:
                return file.read(self._max_output_bytes).decode("utf-8", "replace")
        except OSError:
            return None

    def system(self) -> str:
        """Linux, Darwin."""
        return platform.system()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
