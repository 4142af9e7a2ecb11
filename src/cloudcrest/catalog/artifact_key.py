"""What an artifact is called in the store: a hash of what it holds, never of where it came from."""

import hashlib

import msgspec

from cloudcrest.catalog.api import Artifact, ModelDocument
from cloudcrest.catalog.conversions import version_of
from cloudcrest.kernel.errors import NotFound


def artifact_key(artifact: Artifact) -> str:
    """SHA-256 (hex) over the files' paths and hashes, and the conversion and its version where there is one.

    Equal for the same files from any source; of an artifact with no listed files, over its sources instead.
    """
    parts: list[object] = [artifact.format, sorted((file.path, file.sha256.lower()) for file in artifact.files)]
    if artifact.convert is not None:
        parts += [artifact.convert, version_of(artifact.convert), artifact.entry]
    if not artifact.files:
        parts += [artifact.entry, sorted(artifact.sources)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def choose_artifact(model: ModelDocument, artifact_format: str) -> Artifact:
    """The model's first artifact of a format. Raises `NotFound` naming the formats there are."""
    for artifact in model.artifacts:
        if artifact.format == artifact_format:
            return artifact
    formats = sorted({artifact.format for artifact in model.artifacts})
    raise NotFound(
        f"the model '{model.id}' has no {artifact_format} weights",
        hint=f"it has {', '.join(formats)}" if formats else "it is only to be had from a provider (engine 'upstream')",
    )
