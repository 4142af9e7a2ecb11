"""What a replica's node must have before it starts: its weights, its engine's runtime, and memory that is free.

On the region service's own node that is done in its process; on another node by a process there (`prepare.py`), whose
lines of output say how far it is.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import psutil

from cloudcrest.catalog.api import PullProgress
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.compute.api import Fabric, NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.infra.settings import encode_path
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.units import format_bytes
from cloudcrest.serving.api import DeploymentDocument
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.pulls import Artifacts
from cloudcrest.serving.reasons import exit_reason
from cloudcrest.serving.settings import ServingSettings

PREPARATION = "preparation"
"""The kind in the labels of a process that prepares; `replica` says for which."""
_ID_SUFFIX = "-prepare"
_STOP_GRACE_SECONDS = 3.0


class Said(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of a preparing process. `path`: the weights' entry file; it and `is_done` come with the last line, as does
    `failure`, why there is no more to come.
    """

    pull: PullProgress | None = None
    doing: str | None = None
    path: str | None = None
    is_done: bool = False
    failure: str | None = None


class Preparing(Protocol):
    """Prepares a node for one replica."""

    async def prepare(
        self, replica_id: str, document: DeploymentDocument, engine: Engine, on_progress: Callable[[Said], None]
    ) -> Path | None:
        """The weights' entry file there, None for an engine without. Raises a `CloudcrestError` saying why not."""
        ...


class Folders(msgspec.Struct, frozen=True):
    """Where a node keeps weights and runtimes: at the same paths on each."""

    models_folder: Path
    runtimes_folder: Path
    catalog: CatalogSettings


class Order(msgspec.Struct, frozen=True):
    """What `prepare.py` is told."""

    document: DeploymentDocument
    folders: Folders


def available_memory_bytes() -> int:
    """What this machine can still give out."""
    return int(psutil.virtual_memory().available)


class PreparingHere:
    """Implements `Preparing` in this process."""

    def __init__(self, artifacts: Artifacts, free_memory_bytes: Callable[[], int] = available_memory_bytes) -> None:
        self._artifacts = artifacts
        self._free_memory_bytes = free_memory_bytes

    async def prepare(
        self,
        replica_id: str,  # noqa: ARG002 - there is nothing to name after it
        document: DeploymentDocument,
        engine: Engine,
        on_progress: Callable[[Said], None],
    ) -> Path | None:
        engine.validate(document)
        path: Path | None = None
        if engine.artifact_format is not None:
            path = await self._artifacts.fetch(
                document.model, engine.artifact_format, lambda progress: on_progress(Said(pull=progress))
            )
        on_progress(Said(doing=""))
        await engine.prepare(document, lambda text: on_progress(Said(doing=text)))
        needed_bytes = document.memory_bytes or engine.memory_bytes(document, path)
        free_bytes = self._free_memory_bytes()
        if needed_bytes > free_bytes:
            raise Unavailable(f"needs {format_bytes(needed_bytes)} memory, {format_bytes(free_bytes)} free")
        return path


class PreparingThere:
    """Implements `Preparing` on another node, through nothing but the fabric. What needs no weights needs nothing."""

    def __init__(self, fabric: Fabric, node: NodeFacts, folders: Folders, *, poll_seconds: float) -> None:
        self._fabric = fabric
        self._node = node
        self._folders = folders
        self._poll_seconds = poll_seconds

    async def prepare(
        self, replica_id: str, document: DeploymentDocument, engine: Engine, on_progress: Callable[[Said], None]
    ) -> Path | None:
        engine.validate(document)
        if engine.artifact_format is None:
            return None
        spec = self._spec(replica_id, document)
        await self._fabric.stop(spec.id)
        await self._fabric.start(spec)
        try:
            said = await self._until_done(spec.id, on_progress)
        finally:
            await self._fabric.stop(spec.id)
        return None if said.path is None else Path(said.path)

    def _spec(self, replica_id: str, document: DeploymentDocument) -> ProcessSpec:
        # Options may hold a sealed key, which nothing here needs: command lines are for all to read.
        options = {name: value for name, value in document.engine_options.items() if name != "api_key"}
        order = Order(msgspec.structs.replace(document, engine_options=options), self._folders)
        return ProcessSpec(
            id=replica_id + _ID_SUFFIX,
            argv=(
                *(sys.executable, "-m", "cloudcrest.serving.prepare"),
                msgspec.json.encode(order, enc_hook=encode_path).decode(),
            ),
            labels={"kind": PREPARATION, "replica": replica_id},
            stop_grace_seconds=_STOP_GRACE_SECONDS,
            node_id=self._node.id,
        )

    async def _until_done(self, process_id: str, on_progress: Callable[[Said], None]) -> Said:
        heard = Said()
        while True:
            process = next((each for each in await self._fabric.list() if each.id == process_id), None)
            if process is None:
                raise Unavailable(f"what prepared node '{self._node.id}' is gone")
            said = last_said(process.log_tail)
            if said is not None and said != heard:
                heard = said
                on_progress(said)
            if heard.is_done or process.state == "exited":
                return _outcome(process, heard, self._node.id)
            await asyncio.sleep(self._poll_seconds)


class Preparations:
    """What prepares each node. `here`: the node that this process runs on; `folders`: where the others keep what
    replicas need (None: there are no others).
    """

    def __init__(
        self,
        artifacts: Artifacts,
        fabric: Fabric,
        here: str,
        folders: Folders | None,
        *,
        settings: ServingSettings,
        free_memory_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        self._in_process = PreparingHere(artifacts, free_memory_bytes)
        self._fabric = fabric
        self._here = here
        self._folders = folders
        self._settings = settings

    def is_here(self, node: NodeFacts) -> bool:
        """Whether a node is the machine of this process."""
        return node.id == self._here

    def on(self, node: NodeFacts) -> Preparing:
        """What prepares this node."""
        if self._folders is None or self.is_here(node):
            return self._in_process
        return PreparingThere(self._fabric, node, self._folders, poll_seconds=self._settings.poll_seconds)


def last_said(log_tail: str) -> Said | None:
    """The last whole line that a preparing process wrote for us; others' lines may be between."""
    for line in reversed(log_tail.splitlines()):
        try:
            return msgspec.json.decode(line, type=Said)
        except msgspec.DecodeError:
            continue
    return None


def _outcome(process: ProcessStatus, said: Said, node_id: str) -> Said:
    if said.failure is not None:
        raise Unavailable(f"on node '{node_id}': {said.failure}")
    if not said.is_done:
        raise Unavailable(f"on node '{node_id}': {exit_reason(process.exit_code, process.log_tail)}")
    return said
