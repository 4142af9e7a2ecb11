"""The simulated engine: no weights, a timing profile, and answers that follow from the prompt. For tests, planning."""

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
)


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a simulated replica behaves.

    Speeds are tokens per second of one request, 0 for as fast as can be. `jitter`: each token takes its time ± this
    part of it, drawn from `jitter_seed`. `answer_tokens`: how long a chat answer is. `load_seconds`: from its start to
    being ready. `die_after_tokens`: the process ends itself after that many output tokens, 0 for never.
    """

    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    jitter: float = 0.0
    jitter_seed: int = 0
    answer_tokens: int = 64
    load_seconds: float = 0.0
    die_after_tokens: int = 0


class SimulatedArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one simulated replica is started with."""

    alias: str
    host: str
    port: int
    slots: int
    context_tokens: int
    dimensions: int = 384
    profile: Profile = Profile()


class SimulatedEngine:
    """`simulated_server.py` in a process of its own."""

    name: ClassVar[EngineName] = "simulated"
    artifact_format: ClassVar[ArtifactFormat | None] = None
    start_timeout_seconds: ClassVar[float] = 60.0
    options: ClassVar[Mapping[str, type]] = {
        field.name: field.type for field in msgspec.structs.fields(Profile) if isinstance(field.type, type)
    }

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("chat", "completion", "embedding", "rerank"))
        check_options(deployment, self.options)
        for name, value in deployment.engine_options.items():
            lowest = 1 if name == "answer_tokens" else 0
            if not lowest <= float(value) <= 1e9:
                raise InvalidInput(f"must be between {lowest} and 1000000000", param=f"engine_options.{name}")
        if float(deployment.engine_options.get("jitter", 0)) > 1:
            raise InvalidInput("must be between 0 and 1", param="engine_options.jitter")

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        """Nothing to make."""

    def memory_bytes(self, _: DeploymentDocument, __: Path | None, /) -> int:
        return 64 * MIB

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        arguments = SimulatedArguments(
            alias=deployment.model_name,
            host=launch.host,
            port=launch.port,
            slots=deployment.slots,
            context_tokens=deployment.context_tokens,
            dimensions=deployment.model.dimensions or 384,
            profile=msgspec.convert(deployment.engine_options, Profile),
        )
        return own_server("simulated_server", arguments, deployment, launch)

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        return await probe_own_server(client, url, token)
