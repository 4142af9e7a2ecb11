"""A worker that stays awake: its loop goes on looking until nothing has come for a while, and then sleeps."""

import asyncio

import pytest

from cloudcrest.gateway.vigil import Vigil
from cloudcrest.kernel.clock import ManualClock

pytestmark = pytest.mark.anyio
SECONDS = 0.25


async def turns_until_asleep(vigil: Vigil, clock: ManualClock, *, at_most: int) -> int:
    """How many turns of the loop something was left to do in, at a hundredth of the time each."""
    for turn in range(at_most):
        if not vigil.is_awake:
            return turn
        clock.advance(SECONDS / 100)
        await asyncio.sleep(0)
    return at_most


async def test_it_stays_awake_for_its_time_after_the_last_round() -> None:
    clock, ended = ManualClock(), list[int]()
    vigil = Vigil(SECONDS, clock.monotonic)
    assert not vigil.is_awake
    for number in range(3):
        vigil.soon(lambda number=number: ended.append(number))  # type: ignore[misc]
        assert await turns_until_asleep(vigil, clock, at_most=50) == 50
        assert ended == list(range(number + 1))
    assert 40 <= await turns_until_asleep(vigil, clock, at_most=200) <= 60


async def test_a_round_in_the_meantime_does_not_make_it_look_twice() -> None:
    clock = ManualClock()
    vigil = Vigil(SECONDS, clock.monotonic)
    for _ in range(3):
        vigil.soon(lambda: None)
    await turns_until_asleep(vigil, clock, at_most=200)
    assert not vigil.is_awake
    vigil.soon(lambda: None)
    assert vigil.is_awake
