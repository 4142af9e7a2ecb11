"""Files: taken in streamed, each whole or not there at all.

A row `uploading` comes first and holds its place in the project's quota, then the object, then the row turns `ready`.
Whatever is killed in between, the next start turns what was left to `deleting`, and the sweep removes it.
"""

import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import UPLOAD_PURPOSES, Caller, FilePurpose, StoredFile, object_key
from cloudcrest.content.multipart import FILE_FIELD, Upload, read_upload
from cloudcrest.content.paging import PageRequest
from cloudcrest.content.repository import batches as batch_repository
from cloudcrest.content.repository import files as repository
from cloudcrest.content.settings import ContentSettings
from cloudcrest.infra.database import Database
from cloudcrest.infra.files import free_bytes
from cloudcrest.infra.objects import ObjectStore, ObjectWriter
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound, TooLarge, Unavailable
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.places import Places
from cloudcrest.kernel.units import KIB, format_bytes

LEAST_EXPIRY = timedelta(hours=1)
MOST_EXPIRY = timedelta(days=30)
_FORM_BYTES = 64 * KIB
_SWEEP_FILES = 200
_KNOWN_FIELDS = frozenset(("purpose", "expires_after[anchor]", "expires_after[seconds]"))
_log = structlog.get_logger(__name__)


class Files:
    """The files of every project of a region."""

    def __init__(
        self, database: Database, objects: ObjectStore, settings: ContentSettings, clock: Clock, new_id: NewId
    ) -> None:
        self._database = database
        self._objects = objects
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._uploads = Places(settings.uploads_at_once, settings.project_uploads_at_once)

    async def upload(
        self, caller: Caller, body: AsyncIterator[bytes], content_type: str, size_bytes: int | None
    ) -> StoredFile:
        """Takes a form in. `size_bytes`: as it was announced. Raises `InvalidInput`, `TooLarge`, `LimitExceeded`."""
        most = self._settings.file_bytes
        if size_bytes is not None and size_bytes > most + _FORM_BYTES:
            raise TooLarge(f"a file may have {format_bytes(most)}")
        if not self._uploads.is_free(caller.project_id):
            busy = "too many files are coming in at once"
            raise Unavailable(busy, code="overloaded", retry_after_seconds=2)
        with self._uploads.held(caller.project_id):
            async with self.writing(caller, "upload", "user_data", size_bytes or 0) as (writer, draft):
                form = await read_upload(body, content_type, writer.write)
                purpose, lifetime = _checked(form)
                if purpose == "batch" and not (form.filename or "").endswith(".jsonl"):
                    raise InvalidInput("a batch reads a file whose name ends in .jsonl", param=FILE_FIELD)
                draft.purpose, draft.filename, draft.lifetime = purpose, form.filename or "", lifetime
        return draft.file()

    @asynccontextmanager
    async def writing(
        self, caller: Caller, filename: str, purpose: FilePurpose, size_bytes: int = 0, *, is_ours: bool = False
    ) -> AsyncIterator[tuple[ObjectWriter, "Draft"]]:
        """A new file that is written in the block: it is there when that ends well, else nothing is.

        `is_ours`: we write it, so it counts for the project's quota and is not refused for it.
        Raises `LimitExceeded` where the project has no room for it, `Unavailable` where the disk has none.
        """
        self._check_disk(size_bytes)
        draft = Draft(caller, self._new_id("file"), filename, purpose, self._clock.now(), is_ours=is_ours)
        await self._reserve(draft, size_bytes)
        try:
            key = object_key(caller.project_id, draft.id)
            async with self._objects.writer(key, self._settings.file_bytes) as writer:
                yield writer, draft
            draft.size_bytes = writer.size_bytes
            await self._finish(draft)
        except BaseException as error:
            await self._drop(draft.id)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full() from error
            raise

    async def find(self, project_id: str, file_id: str) -> StoredFile:
        """A file of a project. Raises `NotFound`."""
        async with self._database.transaction() as session:
            found = await repository.find(session, project_id, file_id[:128], self._clock.now())
        if found is None:
            raise NotFound(f"there is no file '{file_id[:128]}'", param="file_id")
        return found

    async def page(self, project_id: str, request: PageRequest, purpose: str | None) -> list[StoredFile]:
        """The files of a page, with one more where there are more."""
        async with self._database.transaction() as session:
            return await repository.page(session, project_id, request, self._clock.now(), purpose)

    def content(self, file: StoredFile) -> AsyncIterator[bytes]:
        """Its bytes, in pieces."""
        return self._objects.pieces(file.object_key)

    async def delete(self, project_id: str, file_id: str) -> None:
        """Removes a file. Raises `NotFound`, and `Conflict` while a batch reads it."""
        file = await self.find(project_id, file_id)
        async with self._database.transaction() as session:
            await repository.lock_project(session, project_id)
            reader = await batch_repository.reader_of(session, file.id)
            if reader is not None:
                raise Conflict(f"the batch '{reader}' reads this file", code="file_in_use", hint="cancel it first")
            await repository.begin_deletion(session, [file.id])
        # It is out of sight; where its bytes cannot be removed now, the sweep does it.
        with contextlib.suppress(OSError):
            await self._remove(file)

    async def recover(self) -> None:
        """What the process before left half-way is given up. Called once, before anything is taken in."""
        self._objects.forget_unfinished()
        async with self._database.transaction() as session:
            await repository.give_up_uploads(session)

    async def sweep(self) -> int:
        """Removes what is deleted or expired; how much there was."""
        async with self._database.transaction() as session:
            due = await repository.to_delete(session, self._clock.now(), _SWEEP_FILES)
        for file in due:
            await self._remove(file)
        return len(due)

    async def _remove(self, file: StoredFile) -> None:
        await self._objects.delete(file.object_key)
        async with self._database.transaction() as session:
            await repository.forget(session, file.id)

    async def _reserve(self, draft: "Draft", size_bytes: int) -> None:
        settings = self._settings
        async with self._database.transaction() as session:
            await repository.lock_project(session, draft.caller.project_id)
            count, held_bytes = await repository.kept(session, draft.caller.project_id)
            if not draft.is_ours and count >= settings.project_files:
                raise LimitExceeded(
                    f"this project has {count} files, its limit", code="files_limit", hint="delete some"
                )
            if not draft.is_ours:
                _check_room(held_bytes, size_bytes, settings.project_bytes)
            draft.size_bytes = size_bytes
            await repository.add(session, draft.file(), repository.UPLOADING)

    async def _finish(self, draft: "Draft") -> None:
        async with self._database.transaction() as session:
            await repository.lock_project(session, draft.caller.project_id)
            if not await repository.finish(session, draft.file()):
                raise Unavailable("the upload was given up", code="upload_lost")
            if not draft.is_ours:
                _, held_bytes = await repository.kept(session, draft.caller.project_id)
                _check_room(held_bytes, 0, self._settings.project_bytes)
            if draft.also is not None:
                await draft.also(session)

    async def _drop(self, file_id: str) -> None:
        async with self._database.transaction() as session:
            await repository.begin_deletion(session, [file_id])

    def _check_disk(self, size_bytes: int) -> None:
        folder = self._objects.folder
        if folder is not None and free_bytes(folder) - size_bytes < self._settings.disk_reserve_bytes:
            raise _full()


class Draft(msgspec.Struct):
    """A file that is being written. `also`: what happens in the transaction that makes it be there."""

    caller: Caller
    id: str
    filename: str
    purpose: FilePurpose
    created_at: datetime
    lifetime: timedelta | None = None
    size_bytes: int = 0
    is_ours: bool = False
    also: Callable[[AsyncSession], Awaitable[None]] | None = None

    def file(self) -> StoredFile:
        """What it is to be."""
        expires_at = None if self.lifetime is None else self.created_at + self.lifetime
        caller = self.caller
        return StoredFile(
            self.id,
            caller.organization_id,
            caller.project_id,
            caller.key_id,
            self.purpose,
            self.filename,
            self.size_bytes,
            self.created_at,
            expires_at,
        )


def _checked(form: Upload) -> tuple[FilePurpose, timedelta | None]:
    """The purpose and the lifetime. Raises `InvalidInput`."""
    if form.filename is None:
        raise InvalidInput("the form has no file", param=FILE_FIELD, code="missing_required_parameter")
    unknown = form.fields.keys() - _KNOWN_FIELDS
    if unknown:
        name = min(unknown)[:100]
        raise InvalidInput(f"'{name}' is not a known field", param=name, code="unknown_parameter")
    given = form.fields.get("purpose")
    purpose = next((known for known in UPLOAD_PURPOSES if known == given), None)
    if purpose is None:
        raise InvalidInput(f"purpose is one of {', '.join(UPLOAD_PURPOSES)}", param="purpose")
    seconds = form.fields.get("expires_after[seconds]")
    if seconds is None:
        return purpose, None
    if form.fields.get("expires_after[anchor]") != "created_at":
        raise InvalidInput("expires_after[anchor] is 'created_at'", param="expires_after[anchor]")
    least, most = LEAST_EXPIRY.total_seconds(), MOST_EXPIRY.total_seconds()
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10 and least <= int(seconds) <= most):
        name = "expires_after[seconds]"
        raise InvalidInput(f"{name} is a whole number from {least:.0f} to {most:.0f}", param=name)
    return purpose, timedelta(seconds=int(seconds))


def _check_room(held_bytes: int, more_bytes: int, most_bytes: int) -> None:
    if held_bytes + more_bytes > most_bytes:
        raise LimitExceeded(
            f"this project may keep {format_bytes(most_bytes)} of files and has no room for this one",
            code="storage_limit",
            hint="delete some, or let them expire",
        )


def _full() -> Unavailable:
    return Unavailable("the region's object store is full", code="storage_full", hint="tell the operator")
