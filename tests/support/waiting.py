"""Waiting for something that another process does: the one place where tests let real time pass."""

import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

import anyio

Value = TypeVar("Value")
PATIENCE_SECONDS = 30.0


def until(
    look: Callable[[], Value], what: str, *, seconds: float = PATIENCE_SECONDS, pause_seconds: float = 0.05
) -> Value:
    """Calls `look` until it gives something true, and returns that. Fails saying `what` did not happen."""
    deadline = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen in {seconds:.0f} s: {what}")
        time.sleep(pause_seconds)


@overload
async def until_async(
    look: Callable[[], Coroutine[Any, Any, Value]], what: str, *, seconds: float = ..., pause_seconds: float = ...
) -> Value: ...
@overload
async def until_async(
    look: Callable[[], Value], what: str, *, seconds: float = ..., pause_seconds: float = ...
) -> Value: ...
async def until_async(
    look: Callable[[], Any],
    what: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    pause_seconds: float = 0.02,
) -> Any:
    """`until` for a running event loop; `look` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        looked = look()
        value = await looked if inspect.isawaitable(looked) else looked
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen in {seconds:.0f} s: {what}")
        await anyio.sleep(pause_seconds)
