"""What one gateway worker knows of a model's replicas, kept up to date from its own requests."""

from collections.abc import Callable, Collection, Sequence
from math import exp

import msgspec

from cloudcrest.gateway.routing.decision import PATIENCE, UTILIZATION_WINDOW_SECONDS, Fleet, choose, work_off
from cloudcrest.gateway.routing.health import Health, HealthRules, ejected, to_eject, warmth
from cloudcrest.gateway.routing.prefix_index import PrefixIndex

MAX_BLOCKS_PER_REPLICA = 4_096
MAX_BLOCKS_PER_MODEL = 32_768
_LEARNING_SECONDS = 120.0
_FAR_OFF = 1.5
_DECODE_DRAG = 0.43
_DECODE_DRAG_PER_REQUEST = 0.026
"""A decode step beside a chunk of prefill takes this share of the chunk's time, and so much more for each request."""
_AVOID_DECODING = 0.05
"""The part of that for which a replica that does not decode is preferred: who goes there makes it decode, too."""
_MAX_OBSERVED_SECONDS = 600.0
_AGE_EACH_SECONDS = 0.02
_RESCALE_AT = 30.0

Cost = Callable[[int, int], float]


class Member(msgspec.Struct, frozen=True):
    """A replica as a router is told of it. `slots`: requests it works on at once."""

    name: str
    slots: int


class Ask(msgspec.Struct, frozen=True):
    """What a request wants: its prompt's tokens and block hashes, `block_tokens` each."""

    tokens: int
    blocks: Sequence[int]
    block_tokens: int


class Ticket(msgspec.Struct):
    """A request for one replica. `work`: its prefill seconds on the reference replica; `seconds`: there."""

    index: int
    name: str
    ask: Ask
    work: float
    seconds: float
    sent_at: float = 0.0
    is_waiting: bool = False
    is_held: bool = False
    queued: list[float] = []


class _Pace(msgspec.Struct):
    """Seconds observed for seconds expected, the last few minutes of work counting most."""

    observed_seconds: float = 0.0
    worked_seconds: float = 0.0

    def add(self, observed: float, worked: float, share: float) -> None:
        """`share`: of the pace's time that this replica's is."""
        kept = exp(-observed * share / _LEARNING_SECONDS)
        self.observed_seconds = self.observed_seconds * kept + observed
        self.worked_seconds = self.worked_seconds * kept + worked

    def slowness(self) -> float:
        return self.observed_seconds / self.worked_seconds


class _Replica(msgspec.Struct):
    """The bookkeeping of one replica beside its place in the fleet."""

    member: Member
    health: Health
    pace: "_Pace"
    slowness: float = 1.0
    in_flight: int = 0
    waiting: int = 0
    waiting_work: float = 0.0
    mark: float = 0.0
    service_seconds: float = 0.0


class Router:
    """The replicas of one model. `cost`: (new tokens, cached tokens) → prefill seconds on the reference replica.

    `choose`, then `send`; then `first_token` and `end`, or `end` alone. All times are monotonic seconds.
    """

    def __init__(
        self,
        cost: Cost,
        *,
        max_blocks_per_replica: int = MAX_BLOCKS_PER_REPLICA,
        max_blocks: int = MAX_BLOCKS_PER_MODEL,
        orders_queue: bool = False,
        crowding_seconds: float = 0.0,
        rules: HealthRules | None = None,
        now: float = 0.0,
    ) -> None:
        self._cost = cost
        self._crowding_seconds = crowding_seconds
        self._rules = rules or HealthRules()
        self._max_blocks_per_replica = max_blocks_per_replica
        self._max_blocks = max_blocks
        self.index = PrefixIndex(max_blocks_per_replica)
        self.fleet = Fleet([], [], [], [], [], orders_queue=orders_queue)
        self._replicas: list[_Replica | None] = []
        self._places: dict[str, int] = {}
        self._all = 0
        self._ejected: dict[int, float] = {}
        self._warming: set[int] = set()
        self._aged_at = now
        self._epoch = now
        self._arrivals = 0.0
        self._assigned = 0.0
        self._turn = 0
        self._pace = _Pace(1.0, 1.0)

    # who there is

    def set_members(self, members: Sequence[Member], now: float) -> None:
        """Takes over the replicas there are now; those that stay keep what is known of them."""
        is_first = not self._places
        named = {member.name: member for member in members}
        for name in self._places.keys() - named.keys():
            self._remove(self._places.pop(name))
        for name, member in named.items():
            place = self._places.get(name)
            known = self._replicas[place] if place is not None else None
            if known is not None:
                known.member = member
            else:
                self._add(member, now - self._rules.warm_up_seconds if is_first else now, now)
        self.index.max_blocks_per_replica = min(
            self._max_blocks_per_replica, self._max_blocks // max(1, len(self._places))
        )

    def place(self, name: str) -> int | None:
        """The index of a replica in the fleet."""
        return self._places.get(name)

    def _add(self, member: Member, since: float, now: float) -> None:
        replica = _Replica(member, Health(since=since), _Pace(self._pace.slowness(), 1.0))
        fleet = self.fleet
        if None in self._replicas:
            place = self._replicas.index(None)
            self._replicas[place] = replica
        else:
            place = len(self._replicas)
            self._replicas.append(replica)
            for column in (fleet.queue_ends_at, fleet.slot_wait, fleet.slowness, fleet.assigned):
                column.append(0.0)
            fleet.waiting.append([])
        self._places[member.name] = place
        self._all |= 1 << place
        fleet.assigned[place] = self._assigned / max(1, len(self._places) - 1)
        self._assigned += fleet.assigned[place]
        self._warming.add(place)
        self._set_slowness(place, replica, now)

    def _remove(self, place: int) -> None:
        fleet = self.fleet
        self._replicas[place] = None
        self._all &= ~(1 << place)
        self._warming.discard(place)
        self._ejected.pop(place, None)
        self.index.forget(place)
        self._assigned -= fleet.assigned[place]
        fleet.queue_ends_at[place] = fleet.slot_wait[place] = fleet.assigned[place] = 0.0
        fleet.waiting[place] = []

    # one request

    def choose(
        self, ask: Ask, now: float, excluded: Collection[str] = (), avoided: Collection[str] = ()
    ) -> Ticket | None:
        """The replica for a request; None: there is none beside `excluded`.

        Those `avoided`, like those ejected, are used only where there is no other.
        """
        is_usual = not (excluded or avoided or self._ejected)
        eligible = self._all if is_usual else self._eligible(now, excluded, avoided)
        if not eligible:
            return None
        fleet, tokens = self.fleet, ask.tokens
        if fleet.orders_queue or now - self._aged_at > _AGE_EACH_SECONDS:
            self._age(now)
        pace = self._pace.slowness()
        expected = [self._cost(tokens, 0) * pace] * len(self._replicas)
        for depth, mask in self.index.match(ask.blocks, eligible):
            cached = min(depth * ask.block_tokens, tokens - 1)
            seconds = self._cost(tokens - cached, cached) * pace
            left = mask
            while left:
                lowest = left & -left
                expected[lowest.bit_length() - 1] = seconds
                left ^= lowest
        self._turn += 1
        index = choose(fleet, expected, now=now, turn=self._turn, eligible=eligible)
        replica = self._replicas[index] if index is not None else None
        if index is None or replica is None:
            return None
        seconds = expected[index] * replica.slowness * (1.0 + _drag(replica))
        return Ticket(index, replica.member.name, ask, expected[index] / pace, seconds)

    def send(self, ticket: Ticket, now: float, *, is_observed: bool = True) -> None:
        """The request goes to its replica, which is about to hold its prompt.

        Not `is_observed`: its first token will not be told of (a whole answer); it is taken to come when expected.
        """
        replica = self._of(ticket)
        if replica is None:
            return
        fleet, place = self.fleet, ticket.index
        ticket.sent_at = now
        ticket.is_held, ticket.is_waiting = True, is_observed
        replica.in_flight += 1
        if is_observed:
            if not replica.waiting:
                replica.mark = now
            replica.waiting += 1
            replica.waiting_work += ticket.work
        fleet.queue_ends_at[place] = max(fleet.queue_ends_at[place], now) + ticket.seconds
        if fleet.orders_queue and is_observed:
            left = ticket.work * self._pace.slowness()
            ticket.queued = [left + PATIENCE * now, left, now]
            fleet.waiting[place].append(ticket.queued)
        gain = ticket.seconds / (UTILIZATION_WINDOW_SECONDS * fleet.assigned_scale)
        fleet.assigned[place] += gain
        self._assigned += gain
        self._arrivals += 1.0 / (UTILIZATION_WINDOW_SECONDS * fleet.assigned_scale)
        self._set_slowness(place, replica, now)
        self._crowd(place, replica)
        self.index.insert(place, ticket.ask.blocks)

    def first_token(self, ticket: Ticket, now: float) -> None:
        """The prompt is read: the replica's pace is learned from when."""
        replica = self._of(ticket)
        if replica is None or not ticket.is_waiting:
            return
        # Between two first tokens it worked on the one it finished, or on others that it finishes later.
        observed = min(max(0.0, now - replica.mark), _MAX_OBSERVED_SECONDS)
        replica.mark = now
        self._learn(replica, observed, ticket.work * (1.0 + _drag(replica)))
        replica.health.slow_samples += 1
        self._leave_queue(ticket, replica, now)
        self._set_slowness(ticket.index, replica, now)
        if replica.slowness > self._rules.slow_factor:
            self._judge(now)

    def end(self, ticket: Ticket, now: float, *, is_failure: bool = False) -> None:
        """The request is over, however. A failure is the replica's, not the request's."""
        replica = self._of(ticket)
        if replica is None or not ticket.is_held:
            return
        if ticket.is_waiting:
            self._leave_queue(ticket, replica, now)
        ticket.is_held = False
        replica.in_flight -= 1
        if is_failure:
            replica.health.failures_in_a_row += 1
            self._judge(now)
        else:
            replica.health.failures_in_a_row = 0
            took = now - ticket.sent_at
            replica.service_seconds += 0.1 * (took - replica.service_seconds)
        self._set_slowness(ticket.index, replica, now)
        self._crowd(ticket.index, replica)

    # inside

    def _learn(self, replica: _Replica, observed: float, worked: float) -> None:
        """A replica counts as the others do, unless it is far off: who finishes when says little of one."""
        replica.pace.add(observed, worked, 1.0)
        self._pace.add(observed, worked, 1.0 / max(1, len(self._places)))
        ratio = replica.pace.slowness() / self._pace.slowness()
        replica.slowness = ratio if ratio > _FAR_OFF or ratio * _FAR_OFF < 1.0 else 1.0

    def _of(self, ticket: Ticket) -> _Replica | None:
        """The ticket's replica, unless its place is another's by now."""
        replica = self._replicas[ticket.index]
        return replica if replica is not None and replica.member.name == ticket.name else None

    def _leave_queue(self, ticket: Ticket, replica: _Replica, now: float) -> None:
        ticket.is_waiting = False
        replica.waiting -= 1
        replica.waiting_work = replica.waiting_work - ticket.work if replica.waiting else 0.0
        pace = self._pace.slowness() * replica.slowness * (1.0 + _drag(replica))
        self.fleet.queue_ends_at[ticket.index] = now + replica.waiting_work * pace
        if self.fleet.orders_queue:
            waiting = self.fleet.waiting[ticket.index]
            self.fleet.waiting[ticket.index] = [entry for entry in waiting if entry is not ticket.queued]

    def _eligible(self, now: float, excluded: Collection[str], avoided: Collection[str]) -> int:
        """The mask of who may be chosen."""
        eligible = self._all & ~self._mask(excluded)
        if self._ejected:
            self._ejected = {place: until for place, until in self._ejected.items() if until > now}
        out = self._mask(avoided) | sum(1 << place for place in self._ejected)
        return eligible & ~out or eligible

    def _mask(self, names: Collection[str]) -> int:
        return sum(1 << self._places[name] for name in set(names) if name in self._places) if names else 0

    def _age(self, now: float) -> None:
        """Lets what was assigned fade, the young grow warm, and ordered queues be worked off."""
        fleet = self.fleet
        self._aged_at = now
        age = (now - self._epoch) / UTILIZATION_WINDOW_SECONDS
        scale = exp(-age)
        if age > _RESCALE_AT:
            fleet.assigned[:] = [value * scale for value in fleet.assigned]
            self._arrivals *= scale
            self._assigned = sum(fleet.assigned)
            self._epoch, scale = now, 1.0
        fleet.assigned_scale = scale
        count = max(1, len(self._places))
        fleet.arrivals_per_second = self._arrivals * scale / count
        fleet.utilization = self._assigned * scale / count
        for place in list(self._warming):
            replica = self._replicas[place]
            if replica is not None:
                self._set_slowness(place, replica, now)
        if fleet.orders_queue:
            for replica, waiting in zip(self._replicas, fleet.waiting, strict=True):
                if waiting and replica is not None:
                    work_off(waiting, replica.slowness * (1.0 + _drag(replica)), now)

    def _set_slowness(self, place: int, replica: _Replica, now: float) -> None:
        warm = 1.0
        if place in self._warming:
            warm = warmth(replica.health, now, self._rules)
            if warm <= 1.0:
                self._warming.discard(place)
        self.fleet.slowness[place] = replica.slowness * warm * (1.0 + _AVOID_DECODING * _drag(replica))

    def _crowd(self, place: int, replica: _Replica) -> None:
        """Beyond its slots a request waits for one of them; within, others' decoding slows it down."""
        slots = replica.member.slots
        over = replica.in_flight + 1 - slots
        share = replica.in_flight / slots
        wait = replica.service_seconds * over / slots if over > 0 else 0.0
        self.fleet.slot_wait[place] = wait + self._crowding_seconds * self._pace.slowness() * replica.slowness * share

    def _judge(self, now: float) -> None:
        """Ejects those that fail or lag, within the share that may be out."""
        places = [place for place, replica in enumerate(self._replicas) if replica is not None]
        replicas = [replica for replica in self._replicas if replica is not None]
        healths = [replica.health for replica in replicas]
        for number in to_eject(healths, [replica.slowness for replica in replicas], now, self._rules):
            replica, place = replicas[number], places[number]
            replica.health = ejected(replica.health, now, self._rules)
            self._ejected[place] = replica.health.ejected_until
            self._warming.add(place)


def _drag(replica: _Replica) -> float:
    decoding = replica.in_flight - replica.waiting
    return _DECODE_DRAG + _DECODE_DRAG_PER_REQUEST * decoding if decoding > 0 else 0.0
