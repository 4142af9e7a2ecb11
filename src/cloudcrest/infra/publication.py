"""The control plane's side of the feed: documents published inside the transaction that changes their subject.

Revisions come in commit order because publishers hold one advisory lock until they commit: a follower that has seen
revision n never misses a smaller one. Publishing is rare (people and jobs do it), so the lock costs nothing.
"""

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Index, Sequence, delete, func, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from cloudcrest.infra.database import Base
from cloudcrest.infra.feed import MAX_PAGE_DOCUMENTS, Document, FeedPage

CHANNEL = "cloudcrest_feed"
"""PostgreSQL notification channel: a notification means that something was published."""

MAX_KEPT_DELETIONS = 20_000
_PUBLISH_LOCK = 0x636C6F7564
_FORGOTTEN = "forgotten"
_NOWHERE = ""
"""No region is called this: the note of what is forgotten lies among the documents, and is for no follower."""
_POSITION = text(
    "select (select system_identifier from pg_control_system()) || '-' || oid,"
    " (select coalesce(max(revision), 0) from published_documents),"
    " (select coalesce(max((body->>'revision')::bigint), 0) from published_documents"
    " where kind = :forgotten and id = :forgotten)"
    " from pg_database where datname = current_database()"
).bindparams(forgotten=_FORGOTTEN)
_revisions = Sequence("published_documents_revision", metadata=Base.metadata)


class _Forgotten(msgspec.Struct, frozen=True):
    """Deletions up to this revision are no longer kept."""

    revision: int


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
    """Publishes a document, or its deletion (`body=None`), when the session's transaction commits.

    A document that there is stays in its region: the one it left would never hear of that. Raises `ValueError`; what
    moves is deleted there and published under another id.
    """
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
    stays = None if body is None else PublishedDocument.region.is_not_distinct_from(statement.excluded.region)
    upsert = statement.on_conflict_do_update(index_elements=["kind", "id"], set_=changed, where=stays)
    written = await session.execute(upsert.returning(PublishedDocument.id))
    if written.first() is None:
        raise ValueError(f"the document {kind} '{document_id}' is of another region than '{region}'")
    await session.execute(select(func.pg_notify(CHANNEL, "")))


async def forget_deletions(session: AsyncSession, *, kept: int = MAX_KEPT_DELETIONS) -> int:
    """Forgets all but the newest deletions; how many. A follower that is further behind starts over."""
    await session.execute(select(func.pg_advisory_xact_lock(_PUBLISH_LOCK)))
    is_deletion = PublishedDocument.body.is_(None)
    newest_forgotten = select(PublishedDocument.revision).where(is_deletion).order_by(PublishedDocument.revision.desc())
    revision = (await session.execute(newest_forgotten.offset(kept).limit(1))).scalar_one_or_none()
    if revision is None:
        return 0
    old = delete(PublishedDocument).where(is_deletion, PublishedDocument.revision <= revision)
    forgotten = (await session.execute(old.returning(PublishedDocument.id))).scalars().all()
    await publish(session, _FORGOTTEN, _FORGOTTEN, _Forgotten(revision), region=_NOWHERE)
    return len(forgotten)


async def read_page(session: AsyncSession, cursor: str, *, region: str) -> FeedPage:
    """What was published for `region` after `cursor` ("" or one from another database: everything)."""
    epoch, newest, forgotten = (await session.execute(_POSITION)).one()
    position = _position(cursor, epoch)
    # The database was restored to before what this follower has seen, or a deletion it may need is forgotten.
    if position is not None and (position[0] > newest or position[1] < forgotten):
        position = None
    since, complete_since = position or (0, newest)
    documents = PublishedDocument
    rows = (
        (
            await session.execute(
                select(documents)
                .where(documents.revision > since)
                .where((documents.region == region) | documents.region.is_(None))
                # Who starts over has nothing that a deletion from before could take away.
                .where(documents.body.is_not(None) | (documents.revision > complete_since))
                .order_by(documents.revision)
                .limit(MAX_PAGE_DOCUMENTS + 1)
            )
        )
        .scalars()
        .all()
    )
    page = rows[:MAX_PAGE_DOCUMENTS]
    has_more = len(rows) > len(page)
    at = (
        f"{page[-1].revision}-{complete_since}"
        if has_more
        else max([newest, since, *(row.revision for row in page[-1:])])
    )
    return FeedPage(
        cursor=f"{epoch}.{at}",
        documents=[Document(kind=row.kind, id=row.id, body=row.body) for row in page],
        reset=position is None,
        has_more=has_more,
    )


def _position(cursor: str, epoch: str) -> tuple[int, int] | None:
    """(revision read up to, revision since which every deletion is needed) of a cursor of this database, else None.

    They differ in the middle of a reset: it brings what exists, so only deletions since it began matter.
    """
    head, _, tail = cursor.partition(".")
    revision, _, complete_since = tail.partition("-")
    complete_since = complete_since or revision
    if head != epoch or not revision.isdecimal() or not complete_since.isdecimal():
        return None
    return int(revision), int(complete_since)


async def published_ids(session: AsyncSession, kind: str) -> set[str]:
    """The ids of the documents there are of a kind."""
    row = PublishedDocument
    found = await session.scalars(select(row.id).where(row.kind == kind).where(row.body.is_not(None)))
    return {*found}
