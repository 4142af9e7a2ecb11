"""Responses in the background: who polls one learns of its end when that is stored."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from cloudcrest.content.api import Caller
from cloudcrest.content.responses.answer import Event
from cloudcrest.content.service.background import Background
from cloudcrest.content.service.responses import Responses, RunningResponse
from cloudcrest.kernel.clock import ManualClock
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


class Storing:
    """A response that is made, and takes until `is_stored` to be stored."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"id": "resp_1", "status": "in_progress"}
        self.is_stored = asyncio.Event()

    async def events(self) -> AsyncIterator[Event]:
        self.document["status"] = "completed"
        await self.keep()
        for event in list[Event]():
            yield event

    async def keep(self, *, is_running: bool = False) -> None:
        if not is_running:
            await self.is_stored.wait()

    async def close(self) -> None: ...


async def test_an_end_is_not_told_before_it_is_stored() -> None:
    background, storing = Background(cast(Responses, None), ManualClock()), Storing()
    run = await background.start(Caller("org_1", "proj_1", "key_1"), cast(RunningResponse, storing))
    assert background.under_way("proj_1", "resp_1") == {"id": "resp_1", "status": "in_progress"}
    assert background.under_way("proj_2", "resp_1") is None
    await until_async(lambda: storing.document["status"] == "completed", "it is made")
    assert not run.is_over
    assert background.under_way("proj_1", "resp_1") is None
    storing.is_stored.set()
    await until_async(lambda: run.is_over, "it is over")
    assert background.under_way("proj_1", "resp_1") is None
