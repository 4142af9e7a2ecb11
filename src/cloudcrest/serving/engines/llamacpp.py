"""llama.cpp: the default engine for GGUF weights, on any machine. Each replica is a process of its own.

Known of it: for `n > 1` its `usage` counts the output of one choice, so a gateway asks it for one choice at a time; it
divides its context among its slots, so a replica is given `slots × context_tokens`. Its threads meet at a barrier after
each operation, hundreds of times a token, and libgomp has them spin there, for milliseconds by default. Where others
want the cores, whoever is waited for does not run because the waiting do: several replicas on one machine then hardly
get on at all. So they spin for as long as a barrier takes among threads that all run, and sleep after that.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import httpx2

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
    probe_http,
    require_artifact,
)

_MAX_DEFAULT_THREADS = 16
_OVERHEAD_BYTES = 96 * MIB
_PROMPT_CACHE_MIB = 256
_BARRIER_SPINS = 1000
"""Some twenty microseconds: longer than threads that all run wait for each other, far shorter than a time slice."""
_MAX_BARRIER_SPINS = 10**9
_SPINS_VARIABLE = "GOMP_SPINCOUNT"
"""Read when libgomp is loaded. ggml's own `poll` does nothing in a build with OpenMP, as ours is."""


class LlamaCppEngine:
    """GGUF weights through `xllamacpp`, whose server runs inside our process."""

    name: ClassVar[EngineName] = "llamacpp"
    artifact_format: ClassVar[ArtifactFormat | None] = "gguf"
    start_timeout_seconds: ClassVar[float] = 600.0
    options: ClassVar[Mapping[str, type]] = {
        "gpu_layers": int,
        "prompt_cache_mib": int,
        "flash_attention": bool,
        "barrier_spins": int,
    }

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("chat", "completion", "embedding", "rerank"))
        check_options(deployment, self.options)
        require_artifact(deployment, "gguf")
        for name, most in (("prompt_cache_mib", 1_000_000), ("barrier_spins", _MAX_BARRIER_SPINS)):
            if not 0 <= int(deployment.engine_options.get(name, 0)) <= most:
                raise InvalidInput(f"must be between 0 and {most}", param=f"engine_options.{name}")

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        """Nothing to make: the engine comes with Cloudcrest."""

    def memory_bytes(self, _: DeploymentDocument, artifact_path: Path | None, /) -> int:
        """The weights and what surrounds them; the key-value cache is left out, as its size depends on the model."""
        weights_bytes = artifact_path.stat().st_size if artifact_path else 0
        return weights_bytes + weights_bytes // 10 + _OVERHEAD_BYTES

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        options = deployment.engine_options
        arguments = {
            "model": str(launch.artifact_path),
            "alias": deployment.model_name,
            "host": launch.host,
            "port": launch.port,
            "slots": deployment.slots,
            "context_tokens": deployment.context_tokens,
            "threads": deployment.cpu_threads or min(launch.cores, _MAX_DEFAULT_THREADS),
            "task": deployment.model.task,
            "gpu_layers": options.get("gpu_layers", -1),
            "prompt_cache_mib": options.get("prompt_cache_mib", _PROMPT_CACHE_MIB),
            "flash_attention": options.get("flash_attention", True),
        }
        environment = {
            "GGML_NO_BACKTRACE": "1",  # an abort then ends in one line, not in a debugger's pages
            _SPINS_VARIABLE: str(options.get("barrier_spins", _BARRIER_SPINS)),
        }
        return own_server("llamacpp_server", arguments, deployment, launch, environment)

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        response, reason = await probe_http(client, url, token)
        if response is None:
            return Probe(is_ready=False, is_alive=False, reason=reason)
        if response.status_code != 200:
            return Probe(is_ready=False, reason="is loading its weights")
        slots, _ = await probe_http(client, url, token, "/slots")
        if slots is None or slots.status_code != 200:
            return Probe(is_ready=True)
        return Probe(is_ready=True, in_flight=sum(1 for slot in slots.json() if slot.get("is_processing")))
