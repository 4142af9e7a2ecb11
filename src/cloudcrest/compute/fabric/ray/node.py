"""One node of the Ray cluster, as it is known through its agent."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.client import AgentClient
from cloudcrest.compute.fabric.ray.members import Member
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, LimitExceeded, Unavailable

ANSWER_SECONDS = 5.0
"""An agent that takes longer to say what it has is silent: nobody waits for it until it answers again. One that is gone
is silent at once; this is for one that is busy, whose replicas are not to be given up.
"""
_PROBE_SECONDS = 0.5
_PROBE_ANSWER_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class RayNode:
    """What `member` has and runs, as it last said. It counts as silent until it has answered for the first time.

    `before`: the node that its name meant until now. Until this one answers, what that one ran may well run: a Ray that
    was started again is another member, with the same agent.
    """

    def __init__(self, member: Member, client: AgentClient, before: "RayNode | None" = None) -> None:
        self.member = member
        self._client = client
        self._facts: NodeFacts | None = None if before is None else before._facts
        self._processes: dict[str, ProcessStatus] = {} if before is None else dict(before._processes)
        self._questions = 0
        self._taken = 0
        self._changed: dict[str, int] = {}
        self._reason: str | None = "its agent is being asked"
        self._fell_silent = asyncio.Event()
        self._probe: asyncio.Task[None] | None = asyncio.create_task(self._until_it_answers())

    @property
    def is_silent(self) -> bool:
        return self._probe is not None or self._fell_silent.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it is silent as it left a question without an answer, and not as the first is on its way."""
        return self._fell_silent.is_set()

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
                await self._ask()
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
        may_run = True
        try:
            await self._unless_silent(self._client.start(spec))
        except (InvalidInput, LimitExceeded):
            may_run = False
            raise
        finally:
            if may_run:
                self._processes[spec.id] = ProcessStatus(spec.id, "running", None, spec.labels)
                self._changed[spec.id] = self._questions

    async def stop(self, process_id: str) -> None:
        self._refuse_if_silent()
        await self._unless_silent(self._client.stop(process_id))
        self._processes.pop(process_id, None)
        self._changed[process_id] = self._questions

    async def close(self, reason: str = "") -> None:
        """It is no longer asked, and nobody waits for it any longer."""
        self._reason = reason or self._reason
        self._fell_silent.set()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    def _refuse_if_silent(self) -> None:
        if self.is_silent:
            raise Unavailable(f"node '{self.member.name}' does not answer: {self._reason}")

    async def _unless_silent(self, call: Coroutine[Any, Any, None]) -> None:
        """Carries it out; `Unavailable` where the node falls silent meanwhile: it may never answer."""
        calling = asyncio.create_task(call)
        silence = asyncio.create_task(self._fell_silent.wait())
        try:
            await asyncio.wait({calling, silence}, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise Unavailable(f"node '{self.member.name}' does not answer: {self._reason}")
            calling.result()
        finally:
            for task in (calling, silence):
                task.cancel()
            await asyncio.gather(calling, silence, return_exceptions=True)

    async def _ask(self) -> None:
        """Asks what runs. Answers may overtake each other, and what is started and stopped meanwhile."""
        self._questions += 1
        asked = self._questions
        processes = {process.id: process for process in await self._client.list()}
        if asked < self._taken:
            return
        self._taken = asked
        # One that was started or stopped after this was asked, its answer may or may not tell of.
        self._changed = {name: question for name, question in self._changed.items() if question >= asked}
        for name in self._changed:
            processes.pop(name, None)
            if name in self._processes:
                processes[name] = self._processes[name]
        self._processes = processes

    def _fall_silent(self, error: Exception) -> None:
        if self.is_silent:
            return  # another call has noticed
        self._reason = str(error) or f"its agent has not answered for {ANSWER_SECONDS:g} s"
        _log.warning("node_silent", node=self.member.name, reason=self._reason)
        self._fell_silent.set()
        self._probe = asyncio.create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PROBE_ANSWER_SECONDS):
                    (self._facts,) = await self._client.nodes()
                    await self._ask()
                break
            except (CloudcrestError, TimeoutError, ValueError) as error:
                self._reason = str(error) or self._reason
                self._fell_silent.set()
            await asyncio.sleep(_PROBE_SECONDS)
        self._reason, self._probe = None, None
        self._fell_silent.clear()
        _log.info("node_answers", node=self.member.name, address=self.member.address)
