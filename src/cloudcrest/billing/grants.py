"""Who may spend what is left of a hard budget: pure, so that every interleaving can be tried.

A scope is one budget in one period, or a balance. What is left of it is granted in parts to holders; a holder is one
life of one gateway worker, known by its spool folder's name, which is never used again. Amounts are units of 10⁻¹⁸.

    left = limit − charged − Σ (what each grant promises and has not drawn)          never below 0 by granting

Four messages change a book, and each may come late, twice or never:
    ask      the holder names the grant, so that asking again gives the same one
    promise  "I will never draw more than this from it": only ever lowers what was granted
    charge   an ingested event draws on the grants it names (each event is ingested once)
    drained  everything a dead holder wrote is ingested: its grants are over

Time gives nothing back by itself: a grant's end keeps its holder from beginning anything on it, and what it has left
comes back by a promise of a living holder or by `drained` of a dead one. So no clock has to be right.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cloudcrest.kernel.usage import Hold

SHARE_DIVISOR = 4
MAX_LIFE_MICROSECONDS = 24 * 3600 * 1_000_000
MAX_ASKS = 1_000
MAX_PROMISES = 10_000
MAX_RECALLED = 1_000
GRANTS_PATH = "/internal/v1/grants"


class Grant(msgspec.Struct, frozen=True):
    """Part of a scope in a holder's hands: `units` is all it may ever draw, `drawn_units` what ingest has seen."""

    id: str
    scope: str
    holder: str
    units: int
    ends_at_microseconds: int
    drawn_units: int = 0

    @property
    def outstanding_units(self) -> int:
        """What it may still draw."""
        return self.units - self.drawn_units


class Ask(msgspec.Struct, frozen=True):
    """A wish for a grant. Below `least` it is of no use, `needed` is what somebody waits for, `wanted` what it may be.

    `is_ahead`: nobody waits for it, so nobody else is to give anything back for it.
    """

    grant_id: str
    scope: str
    least: int
    needed: int
    wanted: int
    ends_at_microseconds: int
    is_ahead: bool = False


class Promise(msgspec.Struct, frozen=True):
    """The holder will never draw more than `units` from this grant.

    `is_refused`: it was asked for and is not wanted any more, should the wish still be on its way.
    """

    scope: str
    grant_id: str
    units: int
    ends_at_microseconds: int
    is_refused: bool = False


class GrantsRequest(msgspec.Struct, frozen=True):
    """`POST /internal/v1/grants` of a gateway worker. With nothing to say it hears what is recalled."""

    holder: str
    asks: tuple[Ask, ...] = ()
    promises: tuple[Promise, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """An ask that was not granted, and what there is: `left_units` to grant, `reserved_units` in holders' hands."""

    grant_id: str
    scope: str
    left_units: int
    reserved_units: int


class GrantsAnswer(msgspec.Struct, frozen=True):
    """`recalled`: scopes of which somebody was refused; holders give back what they do not need."""

    grants: tuple[Grant, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    recalled: tuple[str, ...] = ()


class DrainReport(msgspec.Struct, frozen=True):
    """`POST /internal/v1/grants/drained` of a region: holders whose spool has arrived as a whole."""

    drained: tuple[str, ...] = ()


class Holders(msgspec.Struct, frozen=True):
    """Who in the region has something outstanding: a holder without a spool folder after this was said is drained."""

    holders: tuple[str, ...] = ()


def grant_units(left: int, *, least: int, needed: int, wanted: int, holders: int) -> int:
    """How much to grant: what is needed, or what is left of that, or nothing; beyond it up to `wanted`, but no more
    than a share of what is left.

    The share shrinks with what is left, so near the end holders are given what they need and no more: what then lies
    unused with each is less than one reservation.
    """
    if least > left or needed <= 0:
        return 0
    return max(min(needed, left), min(wanted, left // (SHARE_DIVISOR * max(1, holders))))


class Book:
    """One scope. `changed` and `gone`: the ids of grants that are to be written or deleted."""

    def __init__(self, scope: str, limit_units: int, charged_units: int = 0, grants: Iterable[Grant] = ()) -> None:
        self.scope = scope
        self.limit_units = limit_units
        self.charged_units = charged_units
        self.uncovered_units = 0
        """Charged beyond every promise: 0 while holders keep to theirs."""
        self.grants = {grant.id: grant for grant in grants}
        self.changed: set[str] = set()

    @property
    def outstanding_units(self) -> int:
        return sum(grant.outstanding_units for grant in self.grants.values())

    @property
    def left_units(self) -> int:
        """What can be granted."""
        return self.limit_units - self.charged_units - self.outstanding_units

    def grant(self, ask: Ask, holder: str, now_microseconds: int) -> Grant | None:
        """A new grant; the same as before for a name that is known; None where there is not enough."""
        known = self.grants.get(ask.grant_id)
        if known is not None:
            return known if known.holder == holder and known.units > 0 else None
        if not now_microseconds < ask.ends_at_microseconds <= now_microseconds + MAX_LIFE_MICROSECONDS:
            return None  # a late repetition of what is over and forgotten, or a clock that is far off
        holders = len({grant.holder for grant in self.grants.values() if grant.outstanding_units} | {holder})
        units = grant_units(self.left_units, least=ask.least, needed=ask.needed, wanted=ask.wanted, holders=holders)
        if units == 0:
            return None
        return self._put(Grant(ask.grant_id, self.scope, holder, units, ask.ends_at_microseconds))

    def promise(self, promise: Promise, holder: str, now_microseconds: int) -> None:
        """Lowers what a grant may draw; never raises it, never below what was drawn."""
        grant = self.grants.get(promise.grant_id)
        if grant is not None:
            if grant.holder == holder and promise.units < grant.units:
                self._put(msgspec.structs.replace(grant, units=max(promise.units, grant.drawn_units)))
        elif promise.is_refused and promise.ends_at_microseconds > now_microseconds:
            self._put(Grant(promise.grant_id, self.scope, holder, 0, promise.ends_at_microseconds))

    def charge(self, units: int, holds: Sequence[Hold]) -> None:
        """Books an event's charge, once per event: on its holds in their order, each up to its most, and what they do
        not cover on what is left.
        """
        self.charged_units += units
        for hold in holds:
            part = min(hold.units, units)
            grant = self.grants.get(hold.grant_id)
            drawn = 0 if grant is None else min(part, grant.outstanding_units)
            if grant is not None and drawn:
                self._put(msgspec.structs.replace(grant, drawn_units=grant.drawn_units + drawn))
            self.uncovered_units += part - drawn
            units -= part
        self.uncovered_units += units

    def drain(self, holder: str) -> None:
        """The holder is dead and all it wrote is ingested: its grants are over."""
        self.grants = {key: grant for key, grant in self.grants.items() if grant.holder != holder}

    def forget(self, until_microseconds: int) -> None:
        """Drops grants that ended by then and can draw nothing more. What asks for one again comes after its end."""
        over = [
            grant.id
            for grant in self.grants.values()
            if grant.ends_at_microseconds <= until_microseconds and grant.outstanding_units == 0
        ]
        for grant_id in over:
            del self.grants[grant_id]

    def _put(self, grant: Grant) -> Grant:
        self.grants[grant.id] = grant
        self.changed.add(grant.id)
        return grant


def exchange(books: Mapping[str, Book], request: GrantsRequest, now_microseconds: int) -> GrantsAnswer:
    """What a holder says and is told. First what it gives up, so that others and itself can have that. `recalled` is
    left to who knows of other holders' refusals.
    """
    for promise in request.promises:
        book = books.get(promise.scope)
        if book is not None:
            book.promise(promise, request.holder, now_microseconds)
    grants: list[Grant] = []
    refusals: list[Refusal] = []
    for ask in request.asks:
        book = books.get(ask.scope)
        made = None if book is None else book.grant(ask, request.holder, now_microseconds)
        if made is not None:
            grants.append(made)
        elif book is None:
            refusals.append(Refusal(ask.grant_id, ask.scope, 0, 0))
        else:
            refusals.append(Refusal(ask.grant_id, ask.scope, max(0, book.left_units), book.outstanding_units))
    return GrantsAnswer(tuple(grants), tuple(refusals))
