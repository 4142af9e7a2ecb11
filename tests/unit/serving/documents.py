"""Deployments for tests."""

from typing import Any

import msgspec

from cloudcrest.catalog.api import Artifact, ArtifactFile, ModelDocument
from cloudcrest.serving.api import DeploymentDocument

GGUF = Artifact(
    format="gguf", files=(ArtifactFile(path="m.gguf", sha256="0" * 64),), sources=("file:/nowhere",), entry="m.gguf"
)
MODEL = ModelDocument(id="tiny", task="chat", context_tokens=8192, artifacts=(GGUF,))


def deployment(**changes: Any) -> DeploymentDocument:
    """A deployment of one llama.cpp replica, with changes."""
    document = DeploymentDocument(
        id="dep_1",
        generation=1,
        region="local",
        model_name="tiny",
        model=MODEL,
        engine="llamacpp",
        replicas_min=1,
        replicas_max=1,
        context_tokens=1024,
        slots=2,
        created_at_unix_seconds=1_767_225_600,
    )
    return msgspec.structs.replace(document, **changes)
