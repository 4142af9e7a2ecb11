"""A worker's wallet: what it holds of hard budgets. Memory only; reservations and settlements are integer arithmetic.

Every reservation takes the most a request can cost from each scope it falls under, out of grants that outlive its
deadline, in all scopes or in none. When the request ends, its charge is spent and the rest is free again. What is free
is topped up before it runs out, and given back when it is asked for or its grant ends. Times are Unix microseconds.
"""

from collections.abc import Sequence

from cloudcrest.billing.grants import (
    MAX_ASKS,
    MAX_PROMISES,
    Ask,
    Grant,
    GrantsAnswer,
    GrantsRequest,
    Promise,
    Refusal,
)
from cloudcrest.billing.tariff import affordable_output_tokens, most_units
from cloudcrest.gateway.purse import Claim, Pocket, Purse

SECOND = 1_000_000
LIFE = 7_200 * SECOND
"""Of a grant: so long a worker goes on with what it has while the control plane is away."""
SKEW = 60 * SECOND
"""How far the clocks of gateways and the control plane may be apart."""
MAX_PARTS = 8
"""Grants that one reservation may draw on in one scope."""
AHEAD_REQUESTS = 256
"""A top-up is for about so many requests like the one that was found short."""
ASK_AGAIN = SECOND // 10
TOP_UP_AGAIN = SECOND
MAX_WANTED = 10**40
LOOKS_AT_ONCE = 256


class Wallet:
    """All grants of one worker. `holder`: its spool folder's name. `has_news`: there is something to say at once."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.has_news = False
        self._pockets: dict[str, Pocket] = {}
        self._purses: dict[str, Purse] = {}
        self._asking: dict[str, Pocket] = {}
        self._wishing: dict[str, Pocket] = {}
        self._recalled: list[Pocket] = []
        self._to_tell: dict[str, Promise] = {}
        self._next_look = 0
        self._grants = 0
        self._now = 0

    def pocket(self, scope: str, name: str, ends_at: int) -> Pocket:
        """The pocket of a scope, made with its first request."""
        pocket = self._pockets.get(scope)
        if pocket is None:
            pocket = self._pockets[scope] = Pocket(scope, name, ends_at)
        return pocket

    # the hot path

    def reserve(self, claim: Claim) -> bool:
        """Holds the most it can cost in every scope. False: it is short of something, and nothing is held."""
        most, until = claim.most, claim.until
        for pocket in claim.pockets:
            purse = pocket.purse
            if purse is None or purse.free < most or purse.ends_at < until:
                return self._reserve_in_parts(claim)
        parts = claim.parts
        for pocket in claim.pockets:
            purse = pocket.purse
            if purse is not None:
                left = purse.free = purse.free - most
                purse.held += most
                parts.append((purse, most))
                if left < pocket.low and pocket.ask is None and pocket.wish is None:
                    self._top_up(pocket, most)
        return True

    # beside it

    def reserve_what_there_is(self, claim: Claim) -> bool:
        """For a claim that is open: limits its output to what is free, down to one token."""
        free = min(pocket.free_units(claim.until) for pocket in claim.pockets)
        if not claim.is_open or free < claim.least:
            return False
        affordable = affordable_output_tokens(free, claim.input_tokens, claim.tariff)
        if affordable is not None and affordable < claim.output_tokens:
            claim.output_tokens = max(1, affordable // claim.branches) * claim.branches
            claim.most = most_units(claim.input_tokens, claim.output_tokens, claim.tariff) or 1
            claim.is_capped = True
        return self.reserve(claim)

    def ask_for(self, claims: Sequence[Claim], now: int) -> list[Claim]:
        """Wishes for what these claims are short of, in their order, as far as there is use in asking; those of them
        on whose own behalf something is asked for.
        """
        asked: list[Claim] = []
        for claim in claims:
            is_first = False
            for pocket in claim.pockets:
                free = pocket.free_units(claim.until)
                if free >= claim.most or pocket.ask is not None:
                    continue
                if pocket.wish is not None and not pocket.wish[3]:
                    least, needed, wanted, _ = pocket.wish
                    pocket.wish = (least, needed, min(MAX_WANTED, wanted + claim.most), False)
                    continue
                least = max(1, claim.least - free)
                if now < pocket.not_before and least > pocket.left_hint:
                    continue
                needed = claim.most - free
                pocket.wish = (least, max(least, needed), max(pocket.wanted, AHEAD_REQUESTS * claim.most), False)
                self._wishing[pocket.scope] = pocket
                is_first = self.has_news = True
            if is_first:
                asked.append(claim)
        return asked

    def is_out_of_reach(self, claim: Claim, refusals: Sequence[Refusal]) -> Pocket | None:
        """The scope in which a claim is over all there is, whatever others give back."""
        for refusal in refusals:
            pocket = self._pockets.get(refusal.scope)
            if pocket is None or pocket not in claim.pockets:
                continue
            if claim.least > refusal.left_units + refusal.reserved_units:
                return pocket
        return None

    def short_of(self, claim: Claim) -> Pocket | None:
        """The scope that a claim waits for; None: nothing."""
        return next((each for each in claim.pockets if each.free_units(claim.until) < claim.most), None)

    def message(self, now: int) -> GrantsRequest | None:
        """What is to be said now; None: nothing, as nothing is held. Asks that were not answered are said again.

        Each message looks at a few of the purses in turn, so that ten thousand of them take no time at once.
        """
        self._now = now
        self.has_news = False
        asks: list[Ask] = []
        for pocket in self._asking.values():
            pocket.is_resent = True
            if pocket.ask is not None:
                asks.append(pocket.ask)
        while self._wishing and len(asks) < MAX_ASKS:
            _, pocket = self._wishing.popitem()
            asks.append(self._ask(pocket, now))
        for pocket in self._recalled:
            for purse in pocket.purses:
                self._look_at(purse, now, is_recalled=True)
        self._recalled.clear()
        purses = list(self._purses.values())
        if self._next_look >= len(purses):
            self._next_look = 0
            self._sweep(now)
        for purse in purses[self._next_look : self._next_look + LOOKS_AT_ONCE]:
            self._look_at(purse, now)
        self._next_look += LOOKS_AT_ONCE
        if not asks and not purses and not self._to_tell:
            return None
        return GrantsRequest(self.holder, tuple(asks), tuple(self._to_tell.values())[:MAX_PROMISES])

    def heard(self, request: GrantsRequest, answer: GrantsAnswer, now: int) -> None:
        """Takes over the answer to a message."""
        for promise in request.promises:
            if self._to_tell.get(promise.grant_id) is promise:
                del self._to_tell[promise.grant_id]
            purse = self._purses.get(promise.grant_id)
            if purse is not None:
                purse.told = min(purse.told, promise.units)
                if purse.free == 0 and purse.held == 0 and purse.units == promise.units:
                    self._drop(purse)
        for grant in answer.grants:
            self._take(grant)
        for refusal in answer.refusals:
            self._refused(refusal, now)
        for scope in answer.recalled:
            pocket = self._pockets.get(scope)
            if pocket is not None and any(purse.free for purse in pocket.purses):
                self._recalled.append(pocket)
                self.has_news = True

    def _look_at(self, purse: Purse, now: int, *, is_recalled: bool = False) -> None:
        """Gives up what is free in a grant that is over, too small to be of use, or asked back; renews an old one."""
        pocket = purse.pocket
        is_over = purse.ends_at <= now + SKEW or pocket.ends_at + SKEW <= now
        is_crumb = len(pocket.purses) > MAX_PARTS and purse is not pocket.purse and purse.free < pocket.low // 2
        if purse.free and (is_over or is_crumb or is_recalled):
            purse.units -= purse.free
            purse.free = 0
        if purse.units < purse.told or (purse.free == 0 and purse.held == 0):
            self._to_tell[purse.id] = Promise(pocket.scope, purse.id, purse.units, purse.ends_at)
        is_old = purse is pocket.purse and purse.ends_at - now < LIFE // 2 and 0 < purse.free < purse.units
        if is_old and pocket.ask is None and pocket.wish is None:
            self._top_up(pocket, max(1, purse.units // AHEAD_REQUESTS))

    def _reserve_in_parts(self, claim: Claim) -> bool:
        """As `reserve`, from another grant than the usual one, or from several."""
        most, until = claim.most, claim.until
        chosen: list[tuple[Purse, int]] = []
        for pocket in claim.pockets:
            lasting = [purse for purse in pocket.purses if purse.ends_at >= until and purse.free]
            lasting.sort(key=lambda purse: purse.free)
            single = next((purse for purse in lasting if purse.free >= most), None)
            if single is not None:
                _choose(pocket, lasting)
                chosen.append((single, most))
                continue
            rest = most
            for purse in lasting[: -MAX_PARTS - 1 : -1]:
                part = min(purse.free, rest)
                chosen.append((purse, part))
                rest -= part
                if not rest:
                    break
            if rest:
                return False
        for purse, units in chosen:
            purse.free -= units
            purse.held += units
        claim.parts.extend(chosen)
        return True

    def _top_up(self, pocket: Pocket, most: int) -> None:
        """Asks for more before it is needed, not more often than each second where there was none."""
        if self._now >= pocket.top_up_after and pocket.ends_at > self._now:
            pocket.top_up_after = self._now + TOP_UP_AGAIN
            pocket.wanted = min(MAX_WANTED, max(AHEAD_REQUESTS * most, 2 * pocket.wanted))
            pocket.wish = (most, most, pocket.wanted, True)
            self._wishing[pocket.scope] = pocket
            self.has_news = True

    def _ask(self, pocket: Pocket, now: int) -> Ask:
        assert pocket.wish is not None  # noqa: S101 - for the type checker
        least, needed, wanted, is_ahead = pocket.wish
        self._grants += 1
        grant_id = f"{self.holder}.{self._grants}"
        ask = pocket.ask = Ask(grant_id, pocket.scope, least, needed, wanted, now + LIFE, is_ahead)
        pocket.wish, pocket.is_resent = None, False
        self._asking[pocket.scope] = pocket
        return ask

    def _take(self, grant: Grant) -> None:
        """A grant that was asked for; only once."""
        pocket = self._pockets.get(grant.scope)
        if pocket is None or pocket.ask is None or pocket.ask.grant_id != grant.id:
            return
        pocket.ask = None
        pocket.is_cold = False
        del self._asking[pocket.scope]
        pocket.not_before = pocket.top_up_after = 0
        purse = self._purses[grant.id] = Purse(grant, pocket)
        pocket.purses.append(purse)
        pocket.low = 0  # there is one to go on with when the present one is short
        if pocket.purse is None:
            _choose(pocket, pocket.purses)

    def _refused(self, refusal: Refusal, now: int) -> None:
        pocket = self._pockets.get(refusal.scope)
        if pocket is None or pocket.ask is None or pocket.ask.grant_id != refusal.grant_id:
            return
        ask, pocket.ask = pocket.ask, None
        pocket.is_cold = False
        del self._asking[pocket.scope]
        if pocket.is_resent:  # an earlier one may still be on its way, and would be granted to nobody
            self._to_tell[ask.grant_id] = Promise(ask.scope, ask.grant_id, 0, ask.ends_at_microseconds, is_refused=True)
        pocket.left_hint = refusal.left_units
        pocket.not_before = now + ASK_AGAIN
        if ask.is_ahead:
            pocket.wanted //= 2

    def _drop(self, purse: Purse) -> None:
        pocket = purse.pocket
        del self._purses[purse.id]
        pocket.purses.remove(purse)
        if pocket.purse is purse:
            pocket.purse = None
            if pocket.purses:
                _choose(pocket, sorted(pocket.purses, key=lambda other: other.free))

    def _sweep(self, now: int) -> None:
        """Forgets the pockets of periods that are over."""
        over = [
            pocket.scope
            for pocket in self._pockets.values()
            if pocket.ends_at + LIFE <= now and not pocket.purses and pocket.ask is None and pocket.wish is None
        ]
        for scope in over:
            del self._pockets[scope]


def _choose(pocket: Pocket, purses: Sequence[Purse]) -> None:
    """Takes from the largest from now on (`purses` are sorted); with none beside it, half of it is when to top up."""
    purse = pocket.purse = purses[-1]
    has_spare = len(purses) > 1 and purses[-2].free >= purse.units // 2
    pocket.low = 0 if has_spare else purse.units // 2
