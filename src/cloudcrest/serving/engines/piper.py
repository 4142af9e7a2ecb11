"""Piper (https://github.com/OHF-Voice/piper1-gpl): text to speech from ONNX voices, in a runtime of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import httpx2
import msgspec

from cloudcrest.catalog.api import ArtifactFormat
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import MIB
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.api import (
    Launch,
    Probe,
    check_options,
    check_shape,
    own_server,
    probe_own_server,
    require_artifact,
)
from cloudcrest.serving.runtimes import Runtimes

RUNTIME = "piper"
MAX_THREADS = 4
_OVERHEAD_BYTES = 160 * MIB
_BYTES_PER_SLOT = 120 * MIB
_MAX_ALIASES = 64


class PiperArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one replica is started with. `voice`: the ONNX file, its description beside it as `<voice>.json`."""

    alias: str
    host: str
    port: int
    slots: int
    threads: int
    voice: str
    packages: str
    voice_aliases: tuple[str, ...] = ()


class PiperEngine:
    """`piper_server.py` in a process of its own, which loads piper-tts from its runtime."""

    name: ClassVar[EngineName] = "piper"
    artifact_format: ClassVar[ArtifactFormat | None] = "onnx"
    start_timeout_seconds: ClassVar[float] = 120.0
    options: ClassVar[Mapping[str, type]] = {"voice_aliases": str}

    def __init__(self, runtimes_folder: Path) -> None:
        self._runtimes = Runtimes(runtimes_folder)

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("speech",))
        check_options(deployment, self.options)
        require_artifact(deployment, "onnx")
        if len(_aliases(deployment)) > _MAX_ALIASES:
            raise InvalidInput(f"has more than {_MAX_ALIASES} names", param="engine_options.voice_aliases")

    async def prepare(self, _: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        await self._runtimes.ensure(RUNTIME, on_progress)

    def memory_bytes(self, deployment: DeploymentDocument, artifact_path: Path | None, /) -> int:
        """The voice, what Python and FFmpeg need, and what speaking a sentence takes in each slot."""
        voice_bytes = artifact_path.stat().st_size if artifact_path else 0
        return voice_bytes + _OVERHEAD_BYTES + deployment.slots * _BYTES_PER_SLOT

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        arguments = PiperArguments(
            alias=deployment.model_name,
            host=launch.host,
            port=launch.port,
            slots=deployment.slots,
            threads=deployment.cpu_threads or min(launch.cores, MAX_THREADS),
            voice=str(launch.artifact_path),
            packages=str(self._runtimes.packages(RUNTIME)),
            voice_aliases=_aliases(deployment),
        )
        return own_server("piper_server", arguments, deployment, launch)

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        return await probe_own_server(client, url, token)


def _aliases(deployment: DeploymentDocument) -> tuple[str, ...]:
    """Further names of the voice, written with commas: what clients ask for that know other clouds' voices."""
    written = str(deployment.engine_options.get("voice_aliases", ""))
    return tuple(name for name in (part.strip() for part in written.split(",")) if name)
