"""What ends when something is killed with -9."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.integration.compute.processes import is_alive, kill_quietly
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


@asynccontextmanager
async def small_up(folder: Path) -> AsyncIterator[tuple[int, dict[str, list[int]]]]:
    """The small supervisor's pid, and the pids of each of its processes (guard first, then what it guards)."""
    command = [sys.executable, "-m", "tests.integration.compute.small_up", str(folder)]
    async with await anyio.open_process(command, stderr=None) as up:
        assert up.stdout is not None
        with anyio.fail_after(30):
            line = await BufferedByteReceiveStream(up.stdout).receive_until(b"\n", 10_000)
        pids: dict[str, list[int]] = json.loads(line)
        try:
            yield up.pid, pids
        finally:
            kill_quietly(up.pid)
            for pid in {pid for group in pids.values() for pid in group}:
                kill_quietly(pid)


async def test_the_death_of_the_supervisor_ends_its_children_and_foreign_programs(tmp_path: Path) -> None:
    async with small_up(tmp_path) as (up, pids):
        os.kill(up, signal.SIGKILL)
        for name, group in pids.items():
            for pid in group:
                await until_async(partial(is_gone, pid), f"the end of {name} ({pid})")


async def test_the_death_of_a_guard_ends_what_it_guards(tmp_path: Path) -> None:
    async with small_up(tmp_path) as (up, pids):
        guard, guarded = pids["foreign"]
        assert guard != guarded
        os.kill(guard, signal.SIGKILL)
        await until_async(lambda: not is_alive(guarded), "the end of the guarded program")
        assert is_alive(up)
        assert is_alive(pids["ours"][0])
