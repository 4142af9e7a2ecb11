"""A small parent for programs that know nothing of lifelines (PostgreSQL, vLLM): they end when the supervisor does.

    python guard.py [--stop-signal INT] -- program argument…

It watches the lifeline, passes signals on (SIGTERM as `--stop-signal`) and passes on how its child ended. When the
lifeline breaks the child is asked to stop, and its whole process group is killed a few seconds later. On Linux the
kernel kills the child when the guard itself is killed. Standard library only, and run by path without site packages,
so that it starts in milliseconds and stays small.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_LIFELINE_VARIABLE = "CLOUDCREST_LIFELINE_FD"
_ORPHAN_GRACE_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def guarded(argv: Sequence[str], *, stop_signal: str = "TERM") -> tuple[str, ...]:
    """The command that runs `argv` under a guard. `stop_signal`: what SIGTERM becomes for the program ("INT")."""
    return (sys.executable, "-I", "-S", __file__, "--stop-signal", stop_signal, "--", *argv)


def main(arguments: list[str]) -> int:
    """Runs the program and returns its exit code; ends by the signal that ended it."""
    stop_signal, argv = _parse(arguments)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        # The handler does nothing; the signal's number arrives through the wake-up pipe, in order with the rest.
        signal.signal(number, lambda *_: None)
    lifeline = int(os.environ.pop(_LIFELINE_VARIABLE, "") or -1)
    try:
        child = subprocess.Popen(argv, preexec_fn=_before_exec)  # noqa: PLW1509 - this process has one thread
    except OSError as error:
        print(f"cannot run {argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - its standard error is a log
        return 127
    _watch(child, wake_read, lifeline, stop_signal)
    return _pass_on(child.wait())


def _parse(arguments: list[str]) -> tuple[signal.Signals, list[str]]:
    end = arguments.index("--")
    options = arguments[:end]
    name = options[options.index("--stop-signal") + 1] if "--stop-signal" in options else "TERM"
    return signal.Signals[f"SIG{name}"], arguments[end + 1 :]


def _before_exec() -> None:
    """In the child: die with the guard (Linux), and take signals as usual."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(child: "subprocess.Popen[bytes]", wake_read: int, lifeline: int, stop_signal: signal.Signals) -> None:
    """Returns when the child has ended, or has been given its grace after the lifeline broke."""
    sources = [wake_read] if lifeline < 0 else [wake_read, lifeline]
    deadline: float | None = None
    while child.poll() is None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(sources, [], [], timeout)
        if wake_read in ready:
            for number in os.read(wake_read, 64):
                if number in _PASSED_ON and child.poll() is None:
                    child.send_signal(stop_signal if number == signal.SIGTERM else number)
        if lifeline in ready and os.read(lifeline, 1) == b"":
            sources.remove(lifeline)
            deadline = time.monotonic() + _ORPHAN_GRACE_SECONDS
            child.send_signal(stop_signal)
        if deadline is not None and time.monotonic() >= deadline:
            _kill_group(child)
            return


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """Kills everything left. Where the guard leads the group (it does under a supervisor) that includes itself."""
    child.kill()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _pass_on(code: int) -> int:
    """Ends as the child did, without a second core file."""
    if code >= 0:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    return 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
