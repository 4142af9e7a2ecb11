"""One unit of work per request: the transaction commits when the handler returns, before the response goes out."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.infra.database import Database
from cloudcrest.infra.http.idempotency import note_effect


async def request_session(request: Request) -> AsyncIterator[AsyncSession]:
    """The request's transaction, over the database that bootstrap put into `app.state.database`."""
    database: Database = request.app.state.database
    async with database.transaction() as session:
        yield session
        await note_effect(session, request)


SessionDep = Annotated[AsyncSession, Depends(request_session, scope="function")]
