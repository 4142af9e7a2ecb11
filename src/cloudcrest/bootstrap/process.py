"""What every process that `up` starts does first: lifeline, event loop; and last: says why it ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

from cloudcrest.infra.lifeline import exit_with_lifeline, exit_with_setup_error
from cloudcrest.kernel.errors import SetupError


def run_process(main: Coroutine[Any, Any, None]) -> int:
    """Runs `main` on uvloop for as long as the supervisor lives; the exit code.

    A `SetupError` is said on the last line of standard error, where `up` finds it.
    """
    exit_with_lifeline()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except SetupError as error:
        exit_with_setup_error(error)
    return 0
