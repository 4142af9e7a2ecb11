"""vLLM: safetensors weights on accelerators, or on processors with its CPU build, in a runtime of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import httpx2

from cloudcrest.catalog.api import ArtifactFormat
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.infra.guard import guarded
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import GIB
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.api import (
    Launch,
    Probe,
    check_options,
    check_shape,
    probe_http,
    replica_labels,
    require_artifact,
)
from cloudcrest.serving.runtimes import Runtimes

_RUNTIMES = ("vllm-cpu", "vllm-cuda")
_OVERHEAD_BYTES = 2 * GIB
_DEFAULT_KV_CACHE_GIB = 1
_TOOL_PARSERS: Mapping[str, str] = {
    "hermes": "hermes",
    "qwen3_coder": "qwen3_coder",
    "llama3_json": "llama3_json",
    "mistral": "mistral",
    "deepseek_v3": "deepseek_v3",
    "glm": "glm45",
    "kimi_k2": "kimi_k2",
}
"""What vLLM calls its reader of each tool format."""


class VllmEngine:
    """`python -m vllm.entrypoints.openai.api_server` of a cached runtime, under a guard (it knows no lifeline)."""

    name: ClassVar[EngineName] = "vllm"
    artifact_format: ClassVar[ArtifactFormat | None] = "safetensors"
    start_timeout_seconds: ClassVar[float] = 1800.0
    options: ClassVar[Mapping[str, type]] = {
        "runtime": str,
        "dtype": str,
        "gpu_memory_utilization": float,
        "kv_cache_gib": int,
        "enforce_eager": bool,
        "tensor_parallel_size": int,
    }

    def __init__(self, runtimes_folder: Path) -> None:
        self._runtimes = Runtimes(runtimes_folder)

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("chat", "completion", "embedding", "rerank"))
        check_options(deployment, self.options)
        require_artifact(deployment, "safetensors")
        options = deployment.engine_options
        if _runtime(deployment) not in _RUNTIMES:
            raise InvalidInput(f"must be one of {', '.join(_RUNTIMES)}", param="engine_options.runtime")
        if not 0 < float(options.get("gpu_memory_utilization", 0.9)) <= 1:
            raise InvalidInput("must be above 0 and at most 1", param="engine_options.gpu_memory_utilization")
        if options.get("dtype", "auto") not in ("auto", "bfloat16", "float16", "float32"):
            raise InvalidInput("must be auto, bfloat16, float16 or float32", param="engine_options.dtype")
        for name in ("kv_cache_gib", "tensor_parallel_size"):
            if not 1 <= int(options.get(name, 1)) <= 4096:
                raise InvalidInput("must be between 1 and 4096", param=f"engine_options.{name}")

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        await self._runtimes.ensure(_runtime(deployment), on_progress)

    def memory_bytes(self, deployment: DeploymentDocument, artifact_path: Path | None, /) -> int:
        """The weights, the key-value cache it is told to take, and what Python and torch need."""
        files = _model_folder(artifact_path).glob("*.safetensors") if artifact_path else ()
        weights_bytes = sum(file.stat().st_size for file in files)
        kv_cache_gib = int(deployment.engine_options.get("kv_cache_gib", _DEFAULT_KV_CACHE_GIB))
        return weights_bytes + kv_cache_gib * GIB + _OVERHEAD_BYTES

    def accelerators(self, deployment: DeploymentDocument, /) -> int:
        if _runtime(deployment).endswith("-cpu"):
            return 0
        return int(deployment.engine_options.get("tensor_parallel_size", 1))

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        options = deployment.engine_options
        runtime = _runtime(deployment)
        python = self._runtimes.python(runtime)
        argv = [
            *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(_model_folder(launch.artifact_path))),
            *("--served-model-name", deployment.model_name),
            *("--host", launch.host, "--port", str(launch.port)),
            *("--max-model-len", str(deployment.context_tokens)),
            *("--max-num-seqs", str(deployment.slots)),
            *("--dtype", str(options.get("dtype", "auto"))),
            "--enable-prompt-tokens-details",  # else it would not say what it had cached
        ]
        if deployment.model.task in ("embedding", "rerank"):
            argv += ["--runner", "pooling"]
        parser = _TOOL_PARSERS.get(deployment.model.tool_format or "")
        if parser is not None:
            argv += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
        if options.get("enforce_eager"):
            argv += ["--enforce-eager"]
        if "tensor_parallel_size" in options:
            argv += ["--tensor-parallel-size", str(options["tensor_parallel_size"])]
        environment = {"VLLM_API_KEY": launch.token, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if runtime.endswith("-cpu"):
            environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.get("kv_cache_gib", _DEFAULT_KV_CACHE_GIB))
        else:
            argv += ["--gpu-memory-utilization", str(options.get("gpu_memory_utilization", 0.9))]
        if deployment.cpu_threads:
            environment["OMP_NUM_THREADS"] = str(deployment.cpu_threads)
        return ProcessSpec(
            id=launch.replica_id,
            argv=guarded(argv),
            environment=environment,
            labels=replica_labels(deployment, launch),
            stop_grace_seconds=10.0,
        )

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        response, reason = await probe_http(client, url, token)
        if response is None:
            return Probe(is_ready=False, is_alive=False, reason=reason)
        if response.status_code != 200:
            return Probe(is_ready=False, reason=f"answers {response.status_code} to health checks")
        metrics, _ = await probe_http(client, url, token, "/metrics")
        return Probe(is_ready=True, in_flight=_requests_in(metrics.text) if metrics else None)


def _runtime(deployment: DeploymentDocument) -> str:
    return str(deployment.engine_options.get("runtime", "vllm-cpu"))


def _model_folder(artifact_path: Path | None) -> Path:
    """vLLM is given the folder that the weights lie in."""
    assert artifact_path is not None  # noqa: S101 - validate() has seen safetensors weights
    return artifact_path if artifact_path.is_dir() else artifact_path.parent


def _requests_in(metrics: str) -> int | None:
    """Requests running and waiting, from Prometheus text; None where there is no such metric."""
    counts = [
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))
    ]
    return round(sum(counts)) if counts else None
