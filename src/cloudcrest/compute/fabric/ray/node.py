"""One node of the Ray cluster, as it is known through its agent."""

import asyncio
import contextlib

import msgspec
import structlog

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.client import AgentClient
from cloudcrest.compute.fabric.ray.members import Member
from cloudcrest.kernel.errors import CloudcrestError, Unavailable

ANSWER_SECONDS = 2.0
"""An agent that takes longer to say what it has is silent: nobody waits for it until it answers again."""
_PROBE_SECONDS = 0.5
_PROBE_ANSWER_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class RayNode:
    """What `member` has and runs, as it last said. It counts as silent until it has answered for the first time."""

    def __init__(self, member: Member, client: AgentClient) -> None:
        self.member = member
        self._client = client
        self._facts: NodeFacts | None = None
        self._processes: dict[str, ProcessStatus] = {}
        self._reason: str | None = "its agent is being asked"
        self._probe: asyncio.Task[None] | None = asyncio.create_task(self._until_it_answers())

    @property
    def is_silent(self) -> bool:
        return self._probe is not None

    def facts(self) -> NodeFacts:
        """Silent: not ready, and why."""
        facts = self._facts or NodeFacts(self.member.name, self.member.address, 0, 0)
        reason = self._reason or facts.reason
        return msgspec.structs.replace(
            facts,
            id=self.member.name,
            address=self.member.address,
            labels={**facts.labels, **self.member.labels},
            is_ready=facts.is_ready and not self.is_silent,
            reason=reason,
        )

    def processes(self) -> list[ProcessStatus]:
        """Of a silent node, those it last told of: they may well run."""
        return [
            msgspec.structs.replace(process, node_id=self.member.name, address=self.member.address)
            for process in self._processes.values()
        ]

    def has(self, process_id: str) -> bool:
        return process_id in self._processes

    async def look(self) -> None:
        """Asks what runs. Never fails: a node that does not answer in time is silent from then on."""
        if self.is_silent:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._take(await self._client.list())
        except (CloudcrestError, TimeoutError) as error:
            self._fall_silent(error)

    async def look_at_machine(self) -> None:
        """Asks what it has, as `look` does."""
        if self.is_silent:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                (self._facts,) = await self._client.nodes()
        except (CloudcrestError, TimeoutError, ValueError) as error:
            self._fall_silent(error)

    async def start(self, spec: ProcessSpec) -> None:
        self._refuse_if_silent()
        await self._client.start(spec)
        self._processes[spec.id] = ProcessStatus(spec.id, "running", None, spec.labels)

    async def stop(self, process_id: str) -> None:
        self._refuse_if_silent()
        await self._client.stop(process_id)
        self._processes.pop(process_id, None)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probe

    def _refuse_if_silent(self) -> None:
        if self.is_silent:
            raise Unavailable(f"node '{self.member.name}' does not answer: {self._reason}")

    def _take(self, processes: list[ProcessStatus]) -> None:
        self._processes = {process.id: process for process in processes}

    def _fall_silent(self, error: Exception) -> None:
        if self.is_silent:
            return  # another call has noticed
        self._reason = str(error) or f"its agent has not answered for {ANSWER_SECONDS:g} s"
        _log.warning("node_silent", node=self.member.name, reason=self._reason)
        self._probe = asyncio.create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PROBE_ANSWER_SECONDS):
                    (self._facts,) = await self._client.nodes()
                    self._take(await self._client.list())
                break
            except (CloudcrestError, TimeoutError, ValueError) as error:
                self._reason = str(error) or self._reason
            await asyncio.sleep(_PROBE_SECONDS)
        self._reason, self._probe = None, None
        _log.info("node_answers", node=self.member.name, address=self.member.address)
