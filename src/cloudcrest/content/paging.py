"""OpenAI's lists: `?limit=&after=&before=&order=`, answered with the first and last ids. Ids sort by time."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

import msgspec
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute
from starlette.datastructures import QueryParams

from cloudcrest.kernel.errors import InvalidInput

Columns = TypeVarTuple("Columns")
Item = TypeVar("Item")
_MAX_ID_CHARACTERS = 128


class PageRequest(msgspec.Struct, frozen=True):
    """The page that is asked for: up to `limit` after the item `after`, newest first unless `is_ascending`."""

    limit: int
    after: str | None = None
    before: str | None = None
    is_ascending: bool = False

    def apply(self, statement: Select[*Columns], column: InstrumentedAttribute[Any]) -> Select[*Columns]:
        """The statement in order, from after the cursor, with one row past the page to see if there is more."""
        older, newer = (self.before, self.after) if self.is_ascending else (self.after, self.before)
        if older is not None:
            statement = statement.where(column < older)
        if newer is not None:
            statement = statement.where(column > newer)
        return statement.order_by(column.asc() if self.is_ascending else column.desc()).limit(self.limit + 1)


def page_request(query: QueryParams, *, limit: int = 20, most: int = 100, is_ascending: bool = False) -> PageRequest:
    """Reads a list's query. Raises `InvalidInput`."""
    order = query.get("order", "asc" if is_ascending else "desc")
    if order not in ("asc", "desc"):
        raise InvalidInput("order is 'asc' or 'desc'", param="order")
    asked = query.get("limit", str(limit))
    if not (asked.isascii() and asked.isdigit() and len(asked) < 8 and 1 <= int(asked) <= most):
        raise InvalidInput(f"limit is a whole number from 1 to {most}", param="limit")
    for name in ("after", "before"):
        if len(query.get(name, "")) > _MAX_ID_CHARACTERS:
            raise InvalidInput(f"{name} is no id of an item", param=name)
    return PageRequest(int(asked), query.get("after") or None, query.get("before") or None, order == "asc")


def listing(
    found: Sequence[Item], request: PageRequest, id_of: Callable[[Item], str], shown: Callable[[Item], Any]
) -> dict[str, Any]:
    """The list of the items that `apply` found."""
    page = found[: request.limit]
    return {
        "object": "list",
        "data": [shown(item) for item in page],
        "first_id": id_of(page[0]) if page else None,
        "last_id": id_of(page[-1]) if page else None,
        "has_more": len(found) > request.limit,
    }
