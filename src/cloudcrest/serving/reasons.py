"""Why a replica is not there, in a sentence that a person can act on."""

import re
import signal

_MAX_CHARACTERS = 300
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LLAMA_PREFIX = re.compile(r"^[\d.]+ ([EWID]) (?:\w+\s+)?")


def exit_reason(exit_code: int | None, log_tail: str) -> str:
    """Why a process ended: how, and the line of its output that says most."""
    if exit_code is None:
        how = "the engine's process is gone"
    elif exit_code < 0:
        how = f"the engine was ended by {_signal_name(-exit_code)}"
        if exit_code == -signal.SIGKILL:
            how += " (out of memory?)"
    else:
        how = f"the engine exited with code {exit_code}"
    line = telling_line(log_tail)
    return f"{how}: {line}" if line else how


def telling_line(log_tail: str) -> str:
    """llama.cpp's first error, else the last line there is; without colours, at most 300 characters."""
    lines = [_ESCAPES.sub("", line).strip() for line in log_tail.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return ""
    errors = [line for line in lines if (match := _LLAMA_PREFIX.match(line)) and match.group(1) == "E"]
    line = errors[0] if errors else lines[-1]
    return _LLAMA_PREFIX.sub("", line).removeprefix("error: ")[:_MAX_CHARACTERS]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
