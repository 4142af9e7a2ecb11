"""What the content service keeps for tenants, as frozen values. All of it belongs to a project."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

FilePurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals", "batch_output"]
UPLOAD_PURPOSES: tuple[FilePurpose, ...] = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
OUTPUT_PURPOSE: FilePurpose = "batch_output"
"""Of what batches write; nobody uploads such."""

MIGRATIONS = Path(__file__).with_name("migrations")
"""The revisions of a region's database."""


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
UNFINISHED: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")


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


class Batch(msgspec.Struct, frozen=True):
    """A file of requests that run as capacity is idle, within a day. `key_id`: on whose behalf they run.

    `errors`: what is wrong with its input, as far as it is shown. `output_lifetime_seconds`: of the files it writes.
    """

    id: str
    organization_id: str
    project_id: str
    key_id: str
    endpoint: str
    input_file_id: str
    status: BatchStatus
    created_at: datetime
    expires_at: datetime
    metadata: dict[str, str] | None = None
    errors: list[dict[str, Any]] | None = None
    output_lifetime_seconds: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    cancelling_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def caller(self) -> Caller:
        """Who it belongs to."""
        return Caller(self.organization_id, self.project_id, self.key_id)


class StoredResponse(msgspec.Struct, frozen=True):
    """A response that is kept. `items`: its own input as JSON, `document`: the response as JSON.

    `is_running`: in the background of the process that stored it. `item_ids`: of all of its items.
    """

    id: str
    organization_id: str
    project_id: str
    key_id: str
    previous_response_id: str | None
    created_at: datetime
    expires_at: datetime
    items: bytes
    document: bytes
    is_running: bool = False
    item_ids: list[str] = []


class Conversation(msgspec.Struct, frozen=True):
    """A conversation. `metadata`: JSON. `next_position`: of the item to come; `size_bytes`: what it counts for."""

    id: str
    organization_id: str
    project_id: str
    key_id: str
    created_at: datetime
    expires_at: datetime
    metadata: bytes
    next_position: int = 0
    item_count: int = 0
    size_bytes: int = 0
