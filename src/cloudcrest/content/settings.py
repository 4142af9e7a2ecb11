"""Settings of the content service. Each is an environment variable of `up` with `CLOUDCREST_CONTENT_` before it."""

from typing import Annotated

import msgspec

from cloudcrest.kernel.units import GIB, MIB

_Positive = Annotated[int, msgspec.Meta(gt=0)]


class ContentSettings(msgspec.Struct, frozen=True):
    """`objects_url`: a folder or an fsspec URL (`s3://bucket/prefix`); None: in the region's folder.

    A project may keep `project_files` files of `project_bytes` together, one of them `file_bytes`. Uploads are refused
    where less than `disk_reserve_bytes` would be left on the object store's disk, and where `uploads_at_once` come in
    already, or `project_uploads_at_once` of the project. A project may have `project_batches`
    batches that have not ended; `batches_at_once` of all run at a time, with `batch_requests_at_once` requests in all.
    A response is kept for `response_days`, and of a project the newest `project_responses`, as far as they have
    `project_response_bytes` together. A conversation is kept until nothing was added for `conversation_days`, and of a
    project the `project_conversations` used last; it has up to `conversation_items` items of `conversation_bytes`, and
    a project's have `project_conversation_bytes` together.
    """

    objects_url: str | None = None
    file_bytes: _Positive = 512 * MIB
    project_bytes: _Positive = 10 * GIB
    project_files: _Positive = 10_000
    uploads_at_once: _Positive = 32
    project_uploads_at_once: _Positive = 8
    disk_reserve_bytes: int = 512 * MIB
    project_batches: _Positive = 100
    batches_at_once: _Positive = 32
    batch_requests_at_once: _Positive = 16
    project_responses: _Positive = 100_000
    project_response_bytes: _Positive = 4 * GIB
    response_days: _Positive = 30
    project_conversations: _Positive = 100_000
    project_conversation_bytes: _Positive = 1 * GIB
    conversation_items: _Positive = 4096
    conversation_bytes: _Positive = 16 * MIB
    conversation_days: _Positive = 365
    sweep_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
