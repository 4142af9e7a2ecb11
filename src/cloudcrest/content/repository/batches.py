"""Reads and writes batches and their lines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import case, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import Batch, BatchStatus
from cloudcrest.content.batch_lines import EXPIRED_CODE, Line, LineError, LineUsage
from cloudcrest.content.paging import PageRequest
from cloudcrest.content.tables import BatchLineRow, BatchRow

WAITING, DONE, FAILED = "waiting", "done", "failed"
_SAME_NAMES = tuple(field.name for field in msgspec.structs.fields(Batch) if field.name != "metadata")


class WaitingLine(msgspec.Struct, frozen=True):
    """A line that has no answer yet."""

    number: int
    start_byte: int
    end_byte: int
    attempt: int


class LineResult(msgspec.Struct, frozen=True):
    """What became of a line."""

    number: int
    custom_id: str | None
    attempt: int
    status_code: int | None
    body: bytes | None
    error: LineError | None


async def add(session: AsyncSession, batch: Batch) -> None:
    """Adds a batch."""
    values = {name: getattr(batch, name) for name in _SAME_NAMES}
    session.add(BatchRow(**values, metadata_=batch.metadata))
    await session.flush()


async def find(session: AsyncSession, project_id: str, batch_id: str) -> Batch | None:
    """A batch of this project."""
    statement = select(BatchRow).where(BatchRow.id == batch_id, BatchRow.project_id == project_id)
    row = await session.scalar(statement)
    return None if row is None else _batch(row)


async def get(session: AsyncSession, batch_id: str) -> Batch | None:
    """A batch by its id alone: for the runner."""
    row = await session.get(BatchRow, batch_id)
    return None if row is None else _batch(row)


async def page(session: AsyncSession, project_id: str, request: PageRequest) -> list[Batch]:
    """The batches of a page, with one more where there are more."""
    statement = select(BatchRow).where(BatchRow.project_id == project_id)
    return [_batch(row) for row in await session.scalars(request.apply(statement, BatchRow.id))]


async def unfinished(session: AsyncSession, project_most: int) -> list[tuple[str, str]]:
    """The ids and projects of batches that have not ended, oldest first, of each project the oldest `project_most`."""
    turn = func.row_number().over(partition_by=BatchRow.project_id, order_by=BatchRow.id).label("turn")
    open_ones = select(BatchRow.id, BatchRow.project_id, turn).where(BatchRow.ended_at.is_(None)).subquery()
    statement = select(open_ones.c.id, open_ones.c.project_id).where(open_ones.c.turn <= project_most)
    return [(row[0], row[1]) for row in await session.execute(statement.order_by(open_ones.c.id))]


async def count_unfinished(session: AsyncSession, project_id: str) -> int:
    """How many of a project's batches have not ended."""
    found = BatchRow.project_id == project_id, BatchRow.ended_at.is_(None)
    return await session.scalar(select(func.count()).where(*found)) or 0


async def reader_of(session: AsyncSession, file_id: str) -> str | None:
    """A batch that has yet to read this file."""
    statement = select(BatchRow.id).where(BatchRow.input_file_id == file_id, BatchRow.ended_at.is_(None)).limit(1)
    return await session.scalar(statement)


async def change(
    session: AsyncSession, batch_id: str, *, expected: Sequence[BatchStatus], status: BatchStatus, **values: Any
) -> bool:
    """Moves a batch on; False: it is in none of the expected states."""
    statement = update(BatchRow).where(BatchRow.id == batch_id, BatchRow.status.in_(expected))
    return await session.scalar(statement.values(status=status, **values).returning(BatchRow.id)) is not None


async def set_file(session: AsyncSession, batch_id: str, **file: str) -> None:
    """Notes a file that the batch wrote (`output_file_id` or `error_file_id`)."""
    await session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**file))


async def clear_lines(session: AsyncSession, batch_id: str) -> None:
    """Forgets the lines."""
    await session.execute(delete(BatchLineRow).where(BatchLineRow.batch_id == batch_id))


async def add_lines(session: AsyncSession, batch_id: str, lines: Sequence[Line]) -> None:
    """Adds checked lines; those that are broken have failed already."""
    rows = [
        {
            "batch_id": batch_id,
            "number": line.number,
            "start_byte": line.start_byte,
            "end_byte": line.end_byte,
            "custom_id": line.custom_id,
            "state": WAITING if line.error is None else FAILED,
            "attempt": 0,
            "error": None if line.error is None else msgspec.to_builtins(line.error),
        }
        for line in lines
    ]
    if rows:
        await session.execute(insert(BatchLineRow), rows)


async def waiting(session: AsyncSession, batch_id: str, after: int, most: int) -> list[WaitingLine]:
    """Lines without an answer, in order."""
    columns = BatchLineRow.number, BatchLineRow.start_byte, BatchLineRow.end_byte, BatchLineRow.attempt
    chosen = BatchLineRow.batch_id == batch_id, BatchLineRow.state == WAITING, BatchLineRow.number > after
    found = await session.execute(select(*columns).where(*chosen).order_by(BatchLineRow.number).limit(most))
    return [WaitingLine(*row) for row in found]


async def set_attempt(session: AsyncSession, batch_id: str, number: int, attempt: int) -> None:
    """Notes that a new attempt begins, before it does."""
    chosen = BatchLineRow.batch_id == batch_id, BatchLineRow.number == number
    await session.execute(update(BatchLineRow).where(*chosen).values(attempt=attempt))


async def record(
    session: AsyncSession, batch_id: str, number: int, *, is_done: bool, status_code: int, body: bytes, usage: LineUsage
) -> None:
    """Keeps a line's answer and counts it, once."""
    chosen = BatchLineRow.batch_id == batch_id, BatchLineRow.number == number, BatchLineRow.state == WAITING
    values = {"state": DONE if is_done else FAILED, "status_code": status_code, "body": body}
    statement = update(BatchLineRow).where(*chosen).values(**values).returning(BatchLineRow.number)
    if await session.scalar(statement) is None:
        return
    counts = {
        BatchRow.completed: BatchRow.completed + int(is_done),
        BatchRow.failed: BatchRow.failed + int(not is_done),
        BatchRow.input_tokens: BatchRow.input_tokens + usage.input_tokens,
        BatchRow.cached_input_tokens: BatchRow.cached_input_tokens + usage.cached_input_tokens,
        BatchRow.output_tokens: BatchRow.output_tokens + usage.output_tokens,
        BatchRow.reasoning_tokens: BatchRow.reasoning_tokens + usage.reasoning_tokens,
    }
    await session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(counts))


async def give_up_waiting(session: AsyncSession, batch_id: str, error: LineError) -> None:
    """Lines that have no answer yet get none any more."""
    chosen = BatchLineRow.batch_id == batch_id, BatchLineRow.state == WAITING
    values = {"state": FAILED, "error": msgspec.to_builtins(error)}
    given_up = await session.scalars(
        update(BatchLineRow).where(*chosen).values(**values).returning(BatchLineRow.number)
    )
    counts = {"failed": BatchRow.failed + len(given_up.all())}
    await session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**counts))


async def end(session: AsyncSession, batch_id: str, now: datetime, *, is_cancelled: bool) -> None:
    """Ends a batch whose files are written: as what, its lines tell."""
    has_expired = exists().where(
        BatchLineRow.batch_id == batch_id,
        BatchLineRow.state == FAILED,
        BatchLineRow.error["code"].astext == EXPIRED_CODE,
    )
    status = "cancelled" if is_cancelled else case((has_expired, "expired"), else_="completed")
    statement = update(BatchRow).where(BatchRow.id == batch_id, BatchRow.ended_at.is_(None))
    await session.execute(statement.values(status=status, ended_at=now))


async def results(session: AsyncSession, batch_id: str, state: str, after: int, most: int) -> list[LineResult]:
    """Lines in a state, in order."""
    chosen = BatchLineRow.batch_id == batch_id, BatchLineRow.state == state, BatchLineRow.number > after
    rows = await session.scalars(select(BatchLineRow).where(*chosen).order_by(BatchLineRow.number).limit(most))
    return [
        LineResult(
            row.number,
            row.custom_id,
            row.attempt,
            row.status_code,
            row.body,
            None if row.error is None else msgspec.convert(row.error, LineError),
        )
        for row in rows
    ]


def _batch(row: BatchRow) -> Batch:
    return msgspec.convert({**{name: getattr(row, name) for name in _SAME_NAMES}, "metadata": row.metadata_}, Batch)
