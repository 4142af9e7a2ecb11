"""Cursor pagination: newest first, `?limit=&cursor=`, answers `{"data": […], "next_cursor": "…" | null}`.

Ids sort by creation time, so the cursor is the last id of the page; a page costs an index range, however deep it is.
"""

from typing import Annotated, Generic, TypeVar, TypeVarTuple

from fastapi import Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import InstrumentedAttribute

Item = TypeVar("Item")
Columns = TypeVarTuple("Columns")

MAX_PAGE_ITEMS = 200


class Page(BaseModel, Generic[Item]):
    """One page. Hand `next_cursor` back as `cursor` for the next one; null: this is the last."""

    data: list[Item]
    next_cursor: str | None = Field(default=None, examples=["key_01k9zq3v5e8m2n4p6r8t0w2y4z"])


class PageRequest(BaseModel):
    """The page that a caller asks for."""

    limit: int = 50
    cursor: str | None = None

    def apply(self, statement: Select[*Columns], id_column: InstrumentedAttribute[str]) -> Select[*Columns]:
        """The statement, newest first, from after the cursor, with one row past the page to see if there is more."""
        if self.cursor is not None:
            after: ColumnElement[bool] = id_column < self.cursor
            statement = statement.where(after)
        return statement.order_by(id_column.desc()).limit(self.limit + 1)

    def page(self, items: list[Item], ids: list[str]) -> Page[Item]:
        """The page of the rows that `apply` gave: `ids[i]` is the id of `items[i]`."""
        more = len(items) > self.limit
        return Page(data=items[: self.limit], next_cursor=ids[self.limit - 1] if more else None)


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ITEMS, description="How many at most")] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
) -> PageRequest:
    return PageRequest(limit=limit, cursor=cursor)


PageDep = Annotated[PageRequest, Depends(_page_request)]
