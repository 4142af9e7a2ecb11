"""What operators do with accounts: look them up, make and unmake operators."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller
from cloudcrest.identity.records import User
from cloudcrest.identity.repository import accounts as repository
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.errors import Conflict, NotFound


class UserService:
    """For operators alone."""

    async def list_users(
        self, session: AsyncSession, caller: Caller, page: PageRequest, email: str | None
    ) -> list[User]:
        """Newest first; `email` in lower case: that one alone."""
        caller.require_operator()
        return await repository.list_users(session, page, email)

    async def set_operator(self, session: AsyncSession, caller: Caller, user_id: str, *, is_operator: bool) -> User:
        """Who stops being an operator takes their operator keys' power along. The last operator stays."""
        caller.require_operator()
        await repository.lock_operators(session)
        user = await repository.user_by_id(session, user_id)
        if user is None:
            raise NotFound(f"there is no account '{user_id}'")
        if user.is_operator and not is_operator and await repository.count_operators(session) <= 1:
            raise Conflict("this is the last operator", code="last_operator", hint="make someone else one first")
        await repository.set_operator(session, user_id, is_operator=is_operator)
        return msgspec.structs.replace(user, is_operator=is_operator)
