"""The rules of accelerator types: known ones, those that nodes report, and those that operators add or complete."""

import hashlib
from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types import repository
from cloudcrest.compute.accelerator_types.repository import StoredType
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.naming import TypeIndex, unknown_types
from cloudcrest.compute.api import ACCELERATOR_TYPE_KIND, AcceleratorFacts, AcceleratorType
from cloudcrest.compute.nodes.repository import look_again
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from cloudcrest.kernel.registry import close_matches

MAX_TYPES = 1_000


class AcceleratorTypes:
    """The catalog of types. Every change goes to all regions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def all(self, session: AsyncSession) -> list[AcceleratorType]:
        """Every type, by id; at most `MAX_TYPES`."""
        return [stored.type for stored in await repository.all_types(session)]

    async def page(self, session: AsyncSession, request: PageRequest) -> list[StoredType]:
        """The types of a page in the order of their ids, with one more than the page when there are more."""
        return await repository.page(session, request)

    async def get(self, session: AsyncSession, type_id: str) -> StoredType:
        """One type. Raises `NotFound`."""
        stored = await repository.find(session, type_id)
        if stored is None:
            raise NotFound(f"there is no accelerator type '{type_id}'", hint="see GET /api/v1/accelerators")
        return stored

    async def require_known(self, session: AsyncSession, type_ids: Collection[str], *, param: str) -> None:
        """Raises `InvalidInput` at the field `param` where one of these is no type."""
        known = [] if not type_ids else await repository.ids(session)
        unknown = sorted(set(type_ids).difference(known))
        if unknown:
            matches = close_matches(unknown[0], known)
            hint = f"did you mean {' or '.join(matches)}?" if matches else "see `cloudcrest accelerators list`"
            raise InvalidInput(f"there is no accelerator type '{unknown[0]}'", param=param, hint=hint)

    async def create(self, session: AsyncSession, item: AcceleratorType) -> StoredType:
        """A type of an operator's. Raises `Conflict` where there is one of its id, `LimitExceeded` where there are too
        many.
        """
        await repository.hold(session)
        there = await repository.all_types(session)
        if any(stored.type.id == item.id for stored in there):
            raise Conflict(f"there is an accelerator type '{item.id}' already", hint="change that one")
        if len(there) >= MAX_TYPES:
            raise LimitExceeded(f"there are {MAX_TYPES} accelerator types, which is the most")
        await self._save(session, item, "operator")
        await look_again(session)
        return await self.get(session, item.id)

    async def change(self, session: AsyncSession, type_id: str, changes: dict[str, object]) -> StoredType:
        """A type with other figures; it is an operator's from then on. Raises `NotFound`."""
        await repository.hold(session)
        stored = await self.get(session, type_id)
        item = msgspec.structs.replace(stored.type, **changes)
        if item != stored.type:
            await self._save(session, item, "operator")
            await look_again(session)
        return await self.get(session, type_id)

    async def learn(self, session: AsyncSession, facts: Sequence[AcceleratorFacts]) -> None:
        """Adds a type for each that is reported and not known, as long as there is room."""
        if not facts:
            return
        made = unknown_types(facts, TypeIndex(await self.all(session)))
        if not made:
            return
        await repository.hold(session)
        there = {each.id for each in await self.all(session)}
        for item in [each for type_id, each in sorted(made.items()) if type_id not in there][: MAX_TYPES - len(there)]:
            await self._save(session, item, "detected")

    async def seed(self, session: AsyncSession) -> None:
        """Adds what is newly known and follows what changed; what operators changed stays as they made it."""
        await repository.hold(session)
        there = {stored.type.id: stored for stored in await repository.all_types(session)}
        for item in known_types():
            digest = hashlib.sha256(msgspec.json.encode(item)).hexdigest()
            stored = there.get(item.id)
            if stored is None or (stored.origin != "operator" and stored.known_sha256 != digest):
                await self._save(session, item, "known", known_sha256=digest)

    async def _save(
        self,
        session: AsyncSession,
        item: AcceleratorType,
        origin: repository.Origin,
        *,
        known_sha256: str | None = None,
    ) -> None:
        await repository.save(session, item, origin, self._clock.now(), known_sha256=known_sha256)
        await publish(session, ACCELERATOR_TYPE_KIND, item.id, item)
