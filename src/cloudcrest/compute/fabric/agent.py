"""The node agent: serves a fabric on a Unix socket, for whoever may open it (its folder is the owner's alone).

One JSON object a line each way, one call a connection:

    {"call": "start", "spec": {…ProcessSpec…}}      → {"ok": true}
    {"call": "nodes"}                               → {"ok": true, "nodes": [{…NodeFacts…}]}
    {"call": "list"}                                → {"ok": true, "processes": [{…ProcessStatus…}, …]}
    {"call": "stop", "process_id": "rep_…"}         → {"ok": true}          when it is gone
    anything that fails                             → {"ok": false, "code": "…", "message": "…"}
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from cloudcrest.compute.api import Fabric, NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, Unavailable

MAX_LINE_BYTES = 1024 * 1024
_READ_TIMEOUT_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class AgentCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. `spec` goes with start, `process_id` with stop."""

    call: Literal["nodes", "start", "list", "stop"]
    spec: ProcessSpec | None = None
    process_id: str | None = None


class AgentAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Its answer. `nodes` goes with nodes, `processes` with list; `code` and `message` with a failure."""

    ok: bool
    nodes: list[NodeFacts] = []
    processes: list[ProcessStatus] = []
    code: str = ""
    message: str = ""


class NodeAgent:
    """Serves `fabric` at `socket_path` from `start` to `close`."""

    def __init__(self, fabric: Fabric, socket_path: Path) -> None:
        self._fabric = fabric
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self.was_asked = asyncio.Event()
        """Set with the first call."""

    async def start(self) -> None:
        """Binds the socket, in place of a dead agent's."""
        self._socket_path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._socket_path, limit=MAX_LINE_BYTES)
        os.chmod(self._socket_path, 0o600)

    async def close(self) -> None:
        """Takes no more calls."""
        if self._server is not None:
            self._server.close()
        self._socket_path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), _READ_TIMEOUT_SECONDS)
            self.was_asked.set()
            writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            # Nothing useful came, or nobody reads the answer.
            return
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(self, line: bytes) -> AgentAnswer:
        try:
            return await self._call(msgspec.json.decode(line, type=AgentCall))
        except ValueError as error:
            return AgentAnswer(ok=False, code=InvalidInput.default_code, message=str(error))
        except CloudcrestError as error:
            return AgentAnswer(ok=False, code=error.code, message=str(error))
        except OSError as error:
            return AgentAnswer(ok=False, code=Unavailable.default_code, message=f"this node cannot now: {error}")

    async def _call(self, call: AgentCall) -> AgentAnswer:
        if call.call == "nodes":
            return AgentAnswer(ok=True, nodes=await self._fabric.nodes())
        if call.call == "list":
            return AgentAnswer(ok=True, processes=await self._fabric.list())
        if call.call == "start" and call.spec is not None:
            _log.info("process_start", started=call.spec.id)
            await self._fabric.start(call.spec)
        elif call.call == "stop" and call.process_id is not None:
            _log.info("process_stop", stopped=call.process_id)
            await self._fabric.stop(call.process_id)
        else:
            raise InvalidInput(f"the call '{call.call}' lacks its argument")
        return AgentAnswer(ok=True)
