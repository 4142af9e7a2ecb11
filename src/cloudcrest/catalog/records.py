"""What the catalog knows of a model, and of a region's wish to hold one."""

from datetime import datetime
from typing import Literal

import msgspec

from cloudcrest.catalog.api import Artifact, Modality, ModelDocument, ModerationFormat, PullProgress, Task, ToolFormat


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. What is not known is None or empty, never guessed.

    `context_tokens` 0: it does not work on tokens. `languages`: ISO 639-1 codes that its makers name. `licence`: an
    SPDX id, or the licence's own name where it has none. `parameters`, as its makers give them: all of them;
    `active_parameters`: those a token passes through (mixtures of experts). Lineage, each the id of another model
    here: `base_model` it was trained on from, `adapter_of` it is an adapter for, `quantized_from` it was made smaller
    from.
    """

    id: str
    name: str
    family: str
    task: Task
    context_tokens: int
    input_modalities: tuple[Modality, ...] = ("text",)
    output_modalities: tuple[Modality, ...] = ("text",)
    languages: tuple[str, ...] = ()
    licence: str | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    dimensions: int | None = None
    tool_format: ToolFormat | None = None
    moderation_format: ModerationFormat | None = None
    base_model: str | None = None
    adapter_of: str | None = None
    quantized_from: str | None = None
    homepage: str | None = None
    description: str | None = None
    artifacts: tuple[Artifact, ...] = ()

    def lineage(self) -> tuple[str, ...]:
        """The models that this one comes from."""
        return tuple(name for name in (self.base_model, self.adapter_of, self.quantized_from) if name is not None)

    def document(self) -> ModelDocument:
        """What a region needs of it."""
        return ModelDocument(
            id=self.id,
            task=self.task,
            context_tokens=self.context_tokens,
            artifacts=self.artifacts,
            dimensions=self.dimensions,
            input_modalities=self.input_modalities,
            tool_format=self.tool_format,
            moderation_format=self.moderation_format,
        )


class StoredModel(msgspec.Struct, frozen=True):
    """A model as the catalog keeps it. `origin`: seeded, and untouched since, or an operator's own."""

    model: Model
    origin: Literal["seed", "operator"]
    revision: int
    created_at: datetime
    updated_at: datetime


class ModelPull(msgspec.Struct, frozen=True):
    """A region's task to hold a model's weights, and how far it is."""

    id: str
    model_id: str
    region: str
    created_at: datetime
    updated_at: datetime
    progress: PullProgress
