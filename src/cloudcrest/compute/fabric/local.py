"""The local fabric: processes on this machine, asked of the node agent over its Unix socket."""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.agent import MAX_LINE_BYTES, AgentAnswer, AgentCall
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded, Unavailable

_MAX_ANSWER_BYTES = 16 * MAX_LINE_BYTES
_ANSWER_SECONDS = 30.0


class LocalFabric:
    """A client of the node agent at `socket_path`. Implements `compute.api.Fabric`."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    async def nodes(self) -> list[NodeFacts]:
        """The one node. Raises `Unavailable` without an agent."""
        answer = await self._call(AgentCall(call="nodes"), _ANSWER_SECONDS)
        return answer.nodes

    async def start(self, spec: ProcessSpec) -> None:
        """Starts it. Raises `InvalidInput` where it cannot be run, `Unavailable` without an agent."""
        await self._call(AgentCall(call="start", spec=spec), _ANSWER_SECONDS)

    async def list(self) -> list[ProcessStatus]:
        """Every process started and not yet removed. Raises `Unavailable` without an agent."""
        answer = await self._call(AgentCall(call="list"), _ANSWER_SECONDS)
        return answer.processes

    async def stop(self, process_id: str) -> None:
        """Stops and forgets it; returns when it is gone. Raises `Unavailable` without an agent."""
        # Its grace is the spec's, which only the agent knows.
        await self._call(AgentCall(call="stop", process_id=process_id), None)

    async def _call(self, call: AgentCall, timeout_seconds: float | None) -> AgentAnswer:
        try:
            line = await asyncio.wait_for(self._exchange(msgspec.json.encode(call) + b"\n"), timeout_seconds)
            answer = msgspec.json.decode(line, type=AgentAnswer)
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"the node agent at {self._socket_path} does not answer", hint="is `cloudcrest up` running?"
            ) from error
        if answer.ok:
            return answer
        kinds = {kind.default_code: kind for kind in (LimitExceeded, Unavailable)}
        raise kinds.get(answer.code, InvalidInput)(answer.message, code=answer.code)

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket_path, limit=_MAX_ANSWER_BYTES)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
