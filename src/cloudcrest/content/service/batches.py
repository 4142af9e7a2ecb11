"""Batches as their owners see them: made, looked at, cancelled. What runs them: service/batch_runner.py."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Literal

import msgspec

from cloudcrest.content.api import Batch, Caller
from cloudcrest.content.batch_lines import Endpoint
from cloudcrest.content.paging import PageRequest
from cloudcrest.content.repository import batches as repository
from cloudcrest.content.repository import files as file_repository
from cloudcrest.content.service.files import LEAST_EXPIRY, MOST_EXPIRY, Files
from cloudcrest.content.settings import ContentSettings
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound, TooLarge
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.units import MIB, format_bytes

MAX_INPUT_BYTES = 200 * MIB
WINDOW = timedelta(hours=24)
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], Annotated[str, msgspec.Meta(max_length=512)]],
    msgspec.Meta(max_length=16),
]


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=int(LEAST_EXPIRY.total_seconds()), le=int(MOST_EXPIRY.total_seconds()))]


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/batches"""

    input_file_id: Annotated[str, msgspec.Meta(max_length=128)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class Batches:
    """The batches of every project of a region. `started` and `cancelled` are told a batch's id."""

    def __init__(
        self,
        database: Database,
        files: Files,
        settings: ContentSettings,
        clock: Clock,
        new_id: NewId,
        *,
        started: Callable[[str], None],
        cancelled: Callable[[str], None],
    ) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._started = started
        self._cancelled = cancelled

    async def create(self, caller: Caller, body: BatchBody) -> Batch:
        """Takes a batch. Raises `NotFound`, `InvalidInput`, `TooLarge` and `LimitExceeded`."""
        try:
            file = await self._files.find(caller.project_id, body.input_file_id)
        except NotFound as error:
            raise InvalidInput(error.message, param="input_file_id", code="file_not_found") from None
        if file.purpose != "batch":
            raise InvalidInput(
                f"the file '{file.id}' is for {file.purpose}",
                param="input_file_id",
                code="wrong_purpose",
                hint="upload it with the purpose 'batch'",
            )
        if file.size_bytes > MAX_INPUT_BYTES:
            raise TooLarge(f"a batch may have {format_bytes(MAX_INPUT_BYTES)}", param="input_file_id")
        now = self._clock.now()
        lifetime = body.output_expires_after
        batch = Batch(
            id=self._new_id("batch"),
            organization_id=caller.organization_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            endpoint=body.endpoint,
            input_file_id=file.id,
            status="validating",
            created_at=now,
            expires_at=now + WINDOW,
            metadata=body.metadata,
            output_lifetime_seconds=None if lifetime is None else lifetime.seconds,
        )
        async with self._database.transaction() as session:
            await file_repository.lock_project(session, caller.project_id)
            if await file_repository.find(session, caller.project_id, file.id, now) is None:
                raise InvalidInput("the file was deleted just now", param="input_file_id", code="file_not_found")
            most = self._settings.project_batches
            if await repository.count_unfinished(session, caller.project_id) >= most:
                raise LimitExceeded(
                    f"this project has {most} batches that have not ended, its limit", code="batches_limit"
                )
            await repository.add(session, batch)
        self._started(batch.id)
        return batch

    async def find(self, project_id: str, batch_id: str) -> Batch:
        """A batch of a project. Raises `NotFound`."""
        async with self._database.transaction() as session:
            batch = await repository.find(session, project_id, batch_id[:128])
        if batch is None:
            raise NotFound(f"there is no batch '{batch_id[:128]}'", param="batch_id")
        return batch

    async def page(self, project_id: str, request: PageRequest) -> list[Batch]:
        """The batches of a page, with one more where there are more."""
        async with self._database.transaction() as session:
            return await repository.page(session, project_id, request)

    async def cancel(self, project_id: str, batch_id: str) -> Batch:
        """Begins no more of its requests; what runs, ends. Raises `Conflict` where it is over."""
        batch = await self.find(project_id, batch_id)
        async with self._database.transaction() as session:
            has_changed = await repository.change(
                session,
                batch.id,
                expected=("validating", "in_progress"),
                status="cancelling",
                cancelling_at=self._clock.now(),
            )
        batch = await self.find(project_id, batch_id)
        if not has_changed and batch.status != "cancelling":
            raise Conflict(f"this batch is {batch.status}: there is nothing to cancel", code="batch_not_cancellable")
        self._cancelled(batch.id)
        return batch
