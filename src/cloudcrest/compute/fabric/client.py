"""The asking side of the agents' protocol (`agent.py`), whatever carries its lines."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.agent import AgentAnswer, AgentCall
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded, Unavailable

_ANSWER_SECONDS = 30.0
_KINDS = {kind.default_code: kind for kind in (LimitExceeded, Unavailable)}

Exchange = Callable[[bytes], Awaitable[bytes]]
"""Sends one line to an agent; the line that it answers. Raises `OSError` where it does not."""


class AgentClient:
    """Calls the agent behind `exchange`. Implements `compute.api.Fabric`.

    Calls raise `Unavailable` where it does not answer, saying who (`name`) and what to do (`hint`).
    """

    def __init__(self, exchange: Exchange, *, name: str, hint: str | None = None) -> None:
        self._exchange = exchange
        self._name = name
        self._hint = hint

    async def nodes(self) -> list[NodeFacts]:
        """The agent's nodes: for one of a machine, that one."""
        return (await self._call(AgentCall(call="nodes"), _ANSWER_SECONDS)).nodes

    async def start(self, spec: ProcessSpec) -> None:
        """Starts it. Raises `InvalidInput` where it cannot be run."""
        await self._call(AgentCall(call="start", spec=spec), _ANSWER_SECONDS)

    async def list(self) -> list[ProcessStatus]:
        """Every process started and not yet removed."""
        return (await self._call(AgentCall(call="list"), _ANSWER_SECONDS)).processes

    async def stop(self, process_id: str) -> None:
        """Stops and forgets it; returns when it is gone."""
        # Its grace is the spec's, which only the agent knows.
        await self._call(AgentCall(call="stop", process_id=process_id), None)

    async def _call(self, call: AgentCall, timeout_seconds: float | None) -> AgentAnswer:
        try:
            line = await asyncio.wait_for(self._exchange(msgspec.json.encode(call) + b"\n"), timeout_seconds)
            answer = msgspec.json.decode(line, type=AgentAnswer)
        except (OSError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{self._name} does not answer", hint=self._hint) from error
        if answer.ok:
            return answer
        raise _KINDS.get(answer.code, InvalidInput)(answer.message, code=answer.code)
