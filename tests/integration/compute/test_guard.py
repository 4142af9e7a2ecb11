"""The guard passes on signals and endings."""

import os
import subprocess
import sys

import pytest

from cloudcrest.infra.guard import guarded


def run(code: str, *, stop_signal: str = "TERM") -> subprocess.CompletedProcess[str]:
    command = guarded((sys.executable, "-c", code), stop_signal=stop_signal)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST")}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)


@pytest.mark.parametrize("code", [0, 3])
def test_it_passes_the_exit_code_on(code: int) -> None:
    assert run(f"import sys; sys.exit({code})").returncode == code


def test_it_ends_by_the_signal_that_ended_its_child() -> None:
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").returncode == -11


def test_it_turns_a_request_to_stop_into_the_programs_own_signal() -> None:
    code = (
        "import os, signal, sys, time\n"
        "def stop(number, frame): print('got', number, flush=True); sys.exit(5)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(30)\n"
    )
    done = run(code, stop_signal="INT")
    assert (done.returncode, done.stdout) == (5, "got 2\n")


def test_it_says_what_cannot_be_run() -> None:
    done = subprocess.run(guarded(("/no/such/program",)), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 127
    assert "cannot run /no/such/program: No such file or directory" in done.stderr
