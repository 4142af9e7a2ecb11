"""A worker that stays awake: its loop goes on looking until nothing has come for a while, and then sleeps."""

import asyncio

import pytest

from cloudcrest.gateway.vigil import OFTEN_SECONDS, Vigil

pytestmark = pytest.mark.anyio
SECONDS = 0.25


class Clock:
    """Moves when it is told to, and counts who reads it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


async def turns_until_asleep(vigil: Vigil, clock: Clock, *, at_most: int) -> int:
    """How many turns of the loop something was left to do in, at a hundredth of the time each."""
    for turn in range(at_most):
        if not vigil.is_awake:
            return turn
        clock.now += SECONDS / 100
        await asyncio.sleep(0)
    return at_most


async def test_it_stays_awake_for_its_time_after_the_last_round() -> None:
    clock = Clock()
    vigil = Vigil(SECONDS, clock)
    assert not vigil.is_awake
    for _ in range(3):
        vigil.round_began()
        assert await turns_until_asleep(vigil, clock, at_most=50) == 50
    assert 40 <= await turns_until_asleep(vigil, clock, at_most=200) <= 60


async def test_however_many_rounds_begin_it_looks_once_a_turn() -> None:
    clock = Clock()
    vigil = Vigil(SECONDS, clock)
    for _ in range(5):
        vigil.round_began()
    await asyncio.sleep(0)
    before = clock.reads
    for _ in range(10):
        await asyncio.sleep(0)
    assert clock.reads == before + 10


@pytest.mark.parametrize(("gaps", "stays"), [([0.0003, 0.0097], True), ([0.001, 0.001], False), ([0.0, 0.0055], False)])
@pytest.mark.parametrize("seconds", [0.001, SECONDS, 1.0])
async def test_it_sleeps_between_rounds_that_come_often(gaps: list[float], stays: bool, seconds: float) -> None:
    clock = Clock()
    vigil = Vigil(seconds, clock)
    for gap in gaps * 200:
        clock.now += gap
        vigil.round_began()
        await asyncio.sleep(0)
    assert (sum(gaps) / len(gaps) > OFTEN_SECONDS) is stays
    assert vigil.is_awake is stays
    for _ in range(10):  # and stays awake again when they come seldom
        clock.now += 0.1
        vigil.round_began()
    await asyncio.sleep(0)
    assert vigil.is_awake


async def test_a_pause_among_rounds_that_come_often_does_not_keep_it_awake() -> None:
    clock = Clock()
    vigil = Vigil(SECONDS, clock)
    for gap in [0.0005] * 400 + [0.04] + [0.0005] * 2:
        clock.now += gap
        vigil.round_began()
        await asyncio.sleep(0)
        is_awake = vigil.is_awake
    assert not is_awake
