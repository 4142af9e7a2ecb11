"""The control plane's side of the feed: documents published inside the transaction that changes their subject.

Revisions come in commit order because publishers hold one advisory lock until they commit: a follower that has seen
revision n never misses a smaller one. Publishing is rare (people and jobs do it), so the lock costs nothing.
"""

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Index, Sequence, func, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base
from cloudcrest.infra.feed import MAX_PAGE_DOCUMENTS, Document, FeedPage

CHANNEL = "cloudcrest_feed"
"""PostgreSQL notification channel: a notification means that something was published."""

_PUBLISH_LOCK = 0x636C6F7564
_POSITION = text(
    "select (select system_identifier from pg_control_system()) || '-' || oid,"
    " (select coalesce(max(revision), 0) from published_documents)"
    " from pg_database where datname = current_database()"
)
_revisions = Sequence("published_documents_revision", metadata=Base.metadata)


class PublishedDocument(Base):
    """The latest revision of each document. `body` null marks a deletion. `region` null: for every region."""

    __tablename__ = "published_documents"
    __table_args__ = (Index("ix_published_documents_revision", "revision", unique=True),)

    kind: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    region: Mapped[str | None]
    body: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


async def publish(
    session: AsyncSession, kind: str, document_id: str, body: msgspec.Struct | None, *, region: str | None = None
) -> None:
    """Publishes a document, or its deletion (`body=None`), when the session's transaction commits."""
    await session.execute(select(func.pg_advisory_xact_lock(_PUBLISH_LOCK)))
    values: dict[str, Any] = {
        "kind": kind,
        "id": document_id,
        "revision": _revisions.next_value(),
        "region": region,
        "body": None if body is None else msgspec.to_builtins(body, str_keys=True),
    }
    statement = insert(PublishedDocument).values(values)
    # A deletion keeps the region it had, so that the region learns of it.
    changed = {name: statement.excluded[name] for name in ("revision", "body")}
    if body is not None:
        changed["region"] = statement.excluded.region
    await session.execute(statement.on_conflict_do_update(index_elements=["kind", "id"], set_=changed))
    await session.execute(select(func.pg_notify(CHANNEL, "")))


async def read_page(session: AsyncSession, cursor: str, *, region: str) -> FeedPage:
    """What was published for `region` after `cursor` ("" or one from another database: everything)."""
    epoch, newest = (await session.execute(_POSITION)).one()
    since = _revision_in(cursor, epoch)
    if since is not None and since > newest:
        since = None  # the database was restored to before what this follower has seen
    rows = (
        (
            await session.execute(
                select(PublishedDocument)
                .where(PublishedDocument.revision > (since or 0))
                .where((PublishedDocument.region == region) | PublishedDocument.region.is_(None))
                .order_by(PublishedDocument.revision)
                .limit(MAX_PAGE_DOCUMENTS + 1)
            )
        )
        .scalars()
        .all()
    )
    page = rows[:MAX_PAGE_DOCUMENTS]
    revision = page[-1].revision if page else (since or 0)
    return FeedPage(
        cursor=f"{epoch}.{revision}",
        documents=[Document(kind=row.kind, id=row.id, body=row.body) for row in page],
        reset=since is None,
        has_more=len(rows) > MAX_PAGE_DOCUMENTS,
    )


def _revision_in(cursor: str, epoch: str) -> int | None:
    """The revision of a cursor of this database, else None."""
    head, _, tail = cursor.partition(".")
    return int(tail) if head == epoch and tail.isdigit() else None


async def published_ids(session: AsyncSession, kind: str) -> set[str]:
    """The ids of the documents there are of a kind."""
    row = PublishedDocument
    found = await session.scalars(select(row.id).where(row.kind == kind).where(row.body.is_not(None)))
    return {*found}
