"""What the content service keeps for tenants, as frozen values. All of it belongs to a project."""

from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

FilePurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals", "batch_output"]
UPLOAD_PURPOSES: tuple[FilePurpose, ...] = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
OUTPUT_PURPOSE: FilePurpose = "batch_output"
"""Of what batches write; nobody uploads such."""

MIGRATIONS = Path(__file__).with_name("migrations")
"""The revisions of a region's database."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the gateway authenticated it."""

    organization_id: str
    project_id: str
    key_id: str


class StoredFile(msgspec.Struct, frozen=True):
    """A file that is whole. `key_id`: of the key it came with. Its bytes are in the object store under `object_key`."""

    id: str
    organization_id: str
    project_id: str
    key_id: str
    purpose: FilePurpose
    filename: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None = None

    @property
    def object_key(self) -> str:
        return object_key(self.project_id, self.id)


def object_key(project_id: str, file_id: str) -> str:
    """Where a file's bytes are in the object store."""
    return f"files/{project_id}/{file_id}"
