"""Small weights, and stores to fetch them into."""

import hashlib
import io
import zipfile
from pathlib import Path

from cloudcrest.catalog.api import Artifact, ArtifactFile, ModelDocument
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.catalog.store import ArtifactStore

GGUF = b"GGUF" + bytes(range(256)) * 2000
OFFLINE = "http://127.0.0.1:9"
"""Nothing listens on the discard port."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(content: bytes, path: str = "model.gguf") -> ArtifactFile:
    return ArtifactFile(path, sha256(content), len(content))


def model(*sources: str, files: tuple[ArtifactFile, ...] = (listed(GGUF),), entry: str = "model.gguf") -> ModelDocument:
    artifact = Artifact(format="gguf", files=files, sources=sources, entry=entry)
    return ModelDocument(id="sample", task="chat", context_tokens=128, artifacts=(artifact,))


def store(
    folder: Path, *, hub_url: str = OFFLINE, free_bytes: int = 10**12, environ: dict[str, str] | None = None
) -> ArtifactStore:
    """A store whose hubs and package index are at `hub_url`."""
    settings = CatalogSettings(
        hf_endpoint=hub_url, modelscope_endpoint=hub_url, package_index=f"{hub_url}/simple", attempts=2
    )
    return ArtifactStore(folder, settings, environ=environ or {}, free_bytes=lambda _: free_bytes)


def wheel(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    """A zip file; `links` are symbolic links by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, target)
    return stream.getvalue()
