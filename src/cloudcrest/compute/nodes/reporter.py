"""A region's report of its nodes to the control plane: on change, and every half minute."""

import asyncio
from collections.abc import Callable, Sequence

import httpx2
import msgspec
import structlog

from cloudcrest.compute.api import NODES_PATH, Fabric, NodeAllocation, NodeFacts, NodeStatus
from cloudcrest.compute.nodes.allocated import allocations
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError

LOOK_SECONDS = 2.0
REPORT_AT_LEAST_EVERY_SECONDS = 30.0
_TIMEOUT_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class NodeReporter:
    """Looks at the nodes and what runs on them, and tells.

    `seen`: the nodes as the placer has them, None before it has looked: what is told of as ready gets work. A report
    that is lost is followed by the next; where the fabric is away none is sent, so that its nodes are not taken for
    gone.
    """

    def __init__(
        self,
        fabric: Fabric,
        client: httpx2.AsyncClient,
        control_url: str,
        region_token: str,
        *,
        seen: Callable[[], Sequence[NodeFacts] | None],
        clock: Clock,
    ) -> None:
        self._fabric = fabric
        self._seen = seen
        self._client = client
        self._url = control_url + NODES_PATH
        self._headers = {"authorization": f"Bearer {region_token}", "content-type": "application/json"}
        self._clock = clock
        self._told: list[NodeStatus] | None = None
        self._told_at = float("-inf")

    async def run(self) -> None:
        """Reports until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(LOOK_SECONDS)

    async def step(self) -> None:
        """One look, and a report where there is something to tell."""
        try:
            given = allocations(await self._fabric.list())
        except CloudcrestError as error:
            _log.warning("nodes_unknown", error=error.message)
            return
        nodes = self._seen()
        if nodes is None:
            return
        statuses = [NodeStatus(facts, given.get(facts.id, NodeAllocation())) for facts in nodes]
        now = self._clock.monotonic()
        if statuses == self._told and now - self._told_at < REPORT_AT_LEAST_EVERY_SECONDS:
            return
        try:
            body = msgspec.json.encode(statuses)
            answer = await self._client.put(self._url, content=body, headers=self._headers, timeout=_TIMEOUT_SECONDS)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            _log.warning("nodes_not_reported", error=repr(error))
            return
        self._told, self._told_at = statuses, now
