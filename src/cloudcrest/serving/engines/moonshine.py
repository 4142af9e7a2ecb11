"""Moonshine (https://github.com/moonshine-ai/moonshine): speech to text from ONNX weights, in a runtime of its own."""

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

RUNTIME = "moonshine"
MAX_THREADS = 4
_OVERHEAD_BYTES = 256 * MIB


class MoonshineArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one replica is started with. `folder` holds the weights; `language`: the only one the model knows."""

    alias: str
    host: str
    port: int
    slots: int
    threads: int
    folder: str
    packages: str
    language: str


class MoonshineEngine:
    """`moonshine_server.py` in a process of its own, which loads ONNX Runtime and FFmpeg from its runtime."""

    name: ClassVar[EngineName] = "moonshine"
    artifact_format: ClassVar[ArtifactFormat | None] = "onnx"
    start_timeout_seconds: ClassVar[float] = 120.0
    options: ClassVar[Mapping[str, type]] = {"language": str}

    def __init__(self, runtimes_folder: Path) -> None:
        self._runtimes = Runtimes(runtimes_folder)

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("transcription",))
        check_options(deployment, self.options)
        require_artifact(deployment, "onnx")
        language = _language(deployment)
        if not (language.isascii() and language.isalpha() and 2 <= len(language) <= 3):
            raise InvalidInput("must be a code of ISO 639, as in 'en'", param="engine_options.language")

    async def prepare(self, _: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        await self._runtimes.ensure(RUNTIME, on_progress)

    def memory_bytes(self, _: DeploymentDocument, artifact_path: Path | None, /) -> int:
        """The weights, and what ONNX Runtime and FFmpeg need."""
        files = artifact_path.parent.glob("*.ort") if artifact_path else ()
        return sum(file.stat().st_size for file in files) + _OVERHEAD_BYTES

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        assert launch.artifact_path is not None  # noqa: S101 - validate() has seen ONNX weights
        arguments = MoonshineArguments(
            alias=deployment.model_name,
            host=launch.host,
            port=launch.port,
            slots=deployment.slots,
            threads=deployment.cpu_threads or min(launch.cores, MAX_THREADS),
            folder=str(launch.artifact_path.parent),
            packages=str(self._runtimes.packages(RUNTIME)),
            language=_language(deployment),
        )
        return own_server("moonshine_server", arguments, deployment, launch)

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        return await probe_own_server(client, url, token)


def _language(deployment: DeploymentDocument) -> str:
    return str(deployment.engine_options.get("language", "en"))
