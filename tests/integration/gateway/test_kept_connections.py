"""Connections to replicas that are kept: one that is closed while it is idle costs nobody anything."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.scripted import cloud
from tests.support.gateway_cloud import COMPLETION, Received, json_answer

pytestmark = pytest.mark.anyio


async def test_a_connection_closed_while_idle_is_no_failure(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        assert (await c.chat()).status_code == 200
        for _ in range(3):
            answered = c.upstreams[0].script

            def hang_up_once(request: Received, then: Any = answered) -> None:
                c.upstreams[0].script = then
                request.transport.abort()

            c.upstreams[0].script = hang_up_once
            assert (await c.chat()).status_code == 200


@pytest.mark.parametrize(("crossing_seconds", "is_failure"), [(2.0, False), (0.0, True)])
async def test_a_kept_connection_that_is_lost_later_was_not_closed_while_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crossing_seconds: float, is_failure: bool
) -> None:
    monkeypatch.setattr("cloudcrest.gateway.call.CROSSING_SECONDS", crossing_seconds)
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        (route,) = c.running.gateway.snapshot.deployments.values()
        (replica,) = route.replicas
        assert (await c.chat()).status_code == 200

        def hang_up_once(request: Received) -> None:
            c.upstreams[0].script = json_answer(COMPLETION)
            request.transport.abort()

        c.upstreams[0].script = hang_up_once
        assert (await c.chat()).status_code == 200
        assert (replica.paused_until_seconds > 0) is is_failure
        assert len(c.upstreams[0].received) == 3
