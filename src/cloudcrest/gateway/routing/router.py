"""What one gateway worker knows of a model's replicas, kept up to date from its own requests."""

from collections.abc import Callable, Collection, Sequence
from math import exp, inf
from typing import Final

from cloudcrest.gateway.routing.books import Member, Pace, Replica
from cloudcrest.gateway.routing.decision import (
    PATIENCE,
    UTILIZATION_WINDOW_SECONDS,
    Fleet,
    arrival_costs,
    choose,
    least_of,
    work_off,
)
from cloudcrest.gateway.routing.health import Health, HealthRules, ejected, to_eject, warmth
from cloudcrest.gateway.routing.prefix_index import PrefixIndex

MAX_BLOCKS_PER_REPLICA = 4_096
MAX_BLOCKS_PER_MODEL = 32_768
_FAR_OFF = 1.5
_AVOID_DECODING: Final = 0.05
"""The part of that for which a replica that does not decode is preferred: who goes there makes it decode, too."""
_MAX_OBSERVED_SECONDS = 600.0
_AGE_EACH_SECONDS: Final = 0.02
_RESCALE_AT = 30.0
_SHORT_TOKENS = 256
"""Of the prompt that stands for all that are shorter than a block."""

Cost = Callable[[int, int], float]


class Ask:
    """What a request wants: its prompt's tokens and block hashes, `block_tokens` each."""

    __slots__ = ("block_tokens", "blocks", "tokens")

    def __init__(self, tokens: int, blocks: Sequence[int], block_tokens: int) -> None:
        self.tokens = tokens
        self.blocks = blocks
        self.block_tokens = block_tokens


class Ticket:
    """A request for one replica. `work`: its prefill seconds on the reference replica; `seconds`: there."""

    __slots__ = ("blocks", "index", "is_held", "is_waiting", "queued", "replica", "seconds", "sent_at", "work")

    def __init__(self, index: int, replica: Replica, blocks: Sequence[int], work: float, seconds: float) -> None:
        self.index = index
        self.replica = replica
        self.blocks = blocks
        self.work = work
        self.seconds = seconds
        self.sent_at = 0.0
        self.is_waiting = False
        self.is_held = False
        self.queued: list[float] | None = None

    @property
    def name(self) -> str:
        """The replica's."""
        return self.replica.member.name


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
        self._crowding_seconds = self._crowding_here = crowding_seconds
        self._rules = rules or HealthRules()
        self._max_blocks_per_replica = max_blocks_per_replica
        self._max_blocks = max_blocks
        self.index = PrefixIndex(max_blocks_per_replica)
        self.fleet = Fleet([], [], [], [], [], orders_queue=orders_queue)
        self._replicas: list[Replica | None] = []
        self._places: dict[str, int] = {}
        self._all = 0
        self._ejected: dict[int, float] = {}
        self._warming: set[int] = set()
        self._aged_at = now
        self._epoch = now
        self._arrivals = 0.0
        self._assigned = 0.0
        self._turn = 0
        self._short_costs: list[float] = []
        self._pace = Pace(1.0, 1.0)
        self._slowness = 1.0
        """The pace's. `_crowding_here`: `_crowding_seconds` at that pace."""
        self._share_per_second = 1.0 / UTILIZATION_WINDOW_SECONDS
        """What a second that is sent now counts for in `fleet.assigned`."""

    # who there is

    def set_members(self, members: Sequence[Member], now: float) -> None:
        """Takes over the replicas there are now; those that stay keep what is known of them."""
        is_first = not self._places
        self._aged_at = -inf
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
        replica = Replica(member, Health(since=since), Pace(self._slowness, 1.0))
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
            self._short_costs.append(0.0)
        self._places[member.name] = place
        self._all |= 1 << place
        fleet.assigned[place] = self._assigned / max(1, len(self._places) - 1)
        self._assigned += fleet.assigned[place]
        self._warming.add(place)
        self._follow(place, replica, now)

    def _remove(self, place: int) -> None:
        fleet, replica = self.fleet, self._replicas[place]
        if replica is not None:
            replica.is_gone = True
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
        orders_queue = self.fleet.orders_queue
        if orders_queue or now - self._aged_at > _AGE_EACH_SECONDS:
            self._age(now)
        self._turn += 1
        if is_usual and not ask.blocks and not orders_queue:
            # Too short to be held anywhere: by costs kept for all such prompts. They are exact when time is looked at
            # (`_age`); until then they follow what is sent and what ends.
            index = least_of(self._short_costs, self._turn)
            work = self._cost(ask.tokens, 0)
            seconds = work * self._slowness
        else:
            expected = self._expected(ask, eligible)
            index = choose(self.fleet, expected, now=now, turn=self._turn, eligible=eligible)
            seconds = expected[index]
            work = seconds / self._slowness
        replica = self._replicas[index]
        if replica is None:
            return None
        return Ticket(index, replica, ask.blocks, work, seconds * replica.slowness * (1.0 + replica.drag))

    def _expected(self, ask: Ask, eligible: int) -> list[float]:
        """Seconds of its prefill by replica, at the others' pace, with what each one holds of it."""
        tokens, pace = ask.tokens, self._slowness
        expected = [self._cost(tokens, 0) * pace] * len(self._replicas)
        for depth, mask in self.index.match(ask.blocks, eligible) if ask.blocks else ():
            cached = min(depth * ask.block_tokens, tokens - 1)
            seconds = self._cost(tokens - cached, cached) * pace
            left = mask
            while left:
                lowest = left & -left
                expected[lowest.bit_length() - 1] = seconds
                left ^= lowest
        return expected

    def send(self, ticket: Ticket, now: float, *, is_observed: bool = True) -> None:
        """The request goes to its replica, which is about to hold its prompt.

        Not `is_observed`: its first token will not be told of (a whole answer); it is taken to come when expected.
        """
        replica = ticket.replica
        if replica.is_gone:
            return
        fleet, place, seconds = self.fleet, ticket.index, ticket.seconds
        ticket.sent_at = now
        ticket.is_held = True
        replica.in_flight += 1
        if is_observed:
            self._enter_queue(ticket, replica, now)
        fleet.queue_ends_at[place] = max(fleet.queue_ends_at[place], now) + seconds
        share = self._share_per_second
        gain = seconds * share
        fleet.assigned[place] = fleet.assigned[place] + gain
        self._assigned += gain
        self._arrivals += share
        self._follow(place, replica, now, seconds)
        if ticket.blocks:
            self.index.insert(place, ticket.blocks)

    def first_token(self, ticket: Ticket, now: float) -> None:
        """The prompt is read: the replica's pace is learned from when."""
        replica = ticket.replica
        if replica.is_gone or not ticket.is_waiting:
            return
        # Between two first tokens it worked on the one it finished, or on others that it finishes later.
        observed = min(max(0.0, now - replica.mark), _MAX_OBSERVED_SECONDS)
        replica.mark = now
        self._learn(replica, observed, ticket.work * (1.0 + replica.drag))
        replica.health.slow_samples += 1
        self._leave_queue(ticket, replica, now)
        self._follow(ticket.index, replica, now)
        if replica.slowness > self._rules.slow_factor:
            self._judge(now)

    def end(self, ticket: Ticket, now: float, *, is_failure: bool = False) -> None:
        """The request is over, however. A failure is the replica's, not the request's."""
        replica = ticket.replica
        if replica.is_gone or not ticket.is_held:
            return
        if ticket.is_waiting:
            self._leave_queue(ticket, replica, now)
        ticket.is_held = False
        replica.in_flight -= 1
        if is_failure:
            replica.health.failures_in_a_row += 1
            self._judge(now)
        else:
            if replica.health.failures_in_a_row:
                replica.health.failures_in_a_row = 0
            replica.service_seconds += 0.1 * (now - ticket.sent_at - replica.service_seconds)
        self._follow(ticket.index, replica, now)

    # inside

    def _learn(self, replica: Replica, observed: float, worked: float) -> None:
        """A replica counts as the others do, unless it is far off: who finishes when says little of one."""
        replica.pace.add(observed, worked, 1.0)
        self._pace.add(observed, worked, 1.0 / max(1, len(self._places)))
        self._slowness = self._pace.slowness()
        self._crowding_here = self._crowding_seconds * self._slowness
        ratio = replica.pace.slowness() / self._slowness
        replica.slowness = ratio if ratio > _FAR_OFF or ratio * _FAR_OFF < 1.0 else 1.0

    def _enter_queue(self, ticket: Ticket, replica: Replica, now: float) -> None:
        """It waits for its first token, of which we will be told."""
        ticket.is_waiting = True
        if not replica.waiting:
            replica.mark = now
        replica.waiting += 1
        replica.waiting_work += ticket.work
        if self.fleet.orders_queue:
            left = ticket.work * self._slowness
            ticket.queued = [left + PATIENCE * now, left, now]
            self.fleet.waiting[ticket.index].append(ticket.queued)

    def _leave_queue(self, ticket: Ticket, replica: Replica, now: float) -> None:
        ticket.is_waiting = False
        replica.waiting -= 1
        replica.waiting_work = replica.waiting_work - ticket.work if replica.waiting else 0.0
        replica.set_drag()
        pace = self._slowness * replica.slowness * (1.0 + replica.drag)
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
        self._share_per_second = 1.0 / (UTILIZATION_WINDOW_SECONDS * scale)
        count = max(1, len(self._places))
        fleet.arrivals_per_second = self._arrivals * scale / count
        fleet.utilization = self._assigned * scale / count
        for place in list(self._warming):
            replica = self._replicas[place]
            if replica is not None:
                self._follow(place, replica, now)
        seconds = self._cost(_SHORT_TOKENS, 0) * self._slowness
        costs = arrival_costs(fleet, [seconds] * len(self._replicas), now)
        self._short_costs = [cost if self._all >> place & 1 else inf for place, cost in enumerate(costs)]
        if fleet.orders_queue:
            for replica, waiting in zip(self._replicas, fleet.waiting, strict=True):
                if waiting and replica is not None:
                    work_off(waiting, replica.slowness * (1.0 + replica.drag), now)

    def _follow(self, place: int, replica: Replica, now: float, sent_seconds: float = 0.0) -> None:
        """What its requests make of a replica: others' decoding slows it down, beyond its slots a request waits."""
        replica.set_drag()
        fleet, in_flight = self.fleet, replica.in_flight
        slowness = replica.slowness * (1.0 + _AVOID_DECODING * replica.drag)
        if self._warming and place in self._warming:
            warm = warmth(replica.health, now, self._rules)
            if warm <= 1.0:
                self._warming.discard(place)
            slowness *= warm
        fleet.slowness[place] = slowness
        slots = replica.member.slots
        wait = self._crowding_here * replica.slowness * in_flight / slots
        if in_flight >= slots:  # for one of those that run to end
            wait += replica.service_seconds * (in_flight + 1 - slots) / slots
        costs = self._short_costs
        costs[place] = costs[place] + sent_seconds + (wait - fleet.slot_wait[place])
        fleet.slot_wait[place] = wait

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
