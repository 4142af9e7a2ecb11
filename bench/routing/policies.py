# ruff: noqa: ARG002  # every policy is given all that a router knows
"""The policies that are compared: peers' rules as their documentation describes them, and the gateway's own.

Each sees what a router sees: what it sent, which first tokens and ends came back, and its own bounded index.
"""

from collections.abc import Callable
from math import sqrt

from bench.routing.replicas import BLOCK_TOKENS, CACHE_BLOCKS, Job, prefill_seconds
from cloudcrest.gateway.routing.books import Member
from cloudcrest.gateway.routing.prefix_index import PrefixIndex
from cloudcrest.gateway.routing.router import Ask, Router, Ticket


class Policy:
    """Counts what is under way at each replica; `pick` is the policy."""

    needs_index = True

    def __init__(self, replicas: int) -> None:
        self.count = replicas
        self.turn = 0
        self.index = PrefixIndex(CACHE_BLOCKS)
        self.all = (1 << replicas) - 1
        self.outstanding = [0] * replicas
        self.waiting = [0] * replicas
        self.waiting_tokens = [0] * replicas
        self.waiting_seconds = [0.0] * replicas
        self.queue_ends_at = [0.0] * replicas
        self.active_tokens = [0] * replicas
        self._sent: dict[int, tuple[int, int, float]] = {}

    def choose(self, job: Job, now: float) -> int:
        """The replica for a job, which is sent there."""
        self.turn += 1
        cached = self.cached(job) if self.needs_index else [0] * self.count
        place = self.pick(job, cached, now)
        seconds = prefill_seconds(job.tokens - cached[place], cached[place])
        new_tokens = job.tokens - cached[place]
        self._sent[job.number] = place, new_tokens, seconds
        self.outstanding[place] += 1
        self.waiting[place] += 1
        self.waiting_tokens[place] += new_tokens
        self.waiting_seconds[place] += seconds
        self.queue_ends_at[place] = max(self.queue_ends_at[place], now) + seconds
        self.active_tokens[place] += new_tokens
        if self.needs_index:
            self.index.insert(place, job.blocks)
        return place

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        raise NotImplementedError

    def first_token(self, job: Job, now: float) -> None:
        place, new_tokens, seconds = self._sent[job.number]
        self.waiting[place] -= 1
        self.waiting_tokens[place] -= new_tokens
        self.waiting_seconds[place] -= seconds
        self.queue_ends_at[place] = now + self.waiting_seconds[place]

    def end(self, job: Job, now: float) -> None:
        place, new_tokens, _ = self._sent.pop(job.number)
        self.outstanding[place] -= 1
        self.active_tokens[place] -= new_tokens

    def cached(self, job: Job) -> list[int]:
        """Tokens of the job's prompt that each replica holds, by this router's index."""
        cached = [0] * self.count
        for depth, mask in self.index.match(job.blocks, self.all):
            for place in range(self.count):
                if mask >> place & 1:
                    cached[place] = min(depth * BLOCK_TOKENS, job.tokens - 1)
        return cached

    def least(self, costs: list[float]) -> int:
        """The least cost; ties rotate."""
        start = self.turn % self.count
        return min(range(self.count), key=lambda place: (costs[place], (place - start) % self.count))

    def queued(self, now: float) -> list[float]:
        return [max(0.0, end - now) for end in self.queue_ends_at]


class RoundRobin(Policy):
    needs_index = False

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return self.turn % self.count


class LeastLoaded(Policy):
    """Fewest requests under way."""

    needs_index = False

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return self.least([float(number) for number in self.outstanding])


class Sticky(Policy):
    """A hash of the first 2,048 tokens names the replica."""

    needs_index = False
    blocks = 2

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return hash(tuple(job.blocks[: self.blocks])) % self.count


class SglangStyle(Policy):
    """sglang-router's cache_aware: the longest match over half of the prompt, else the replica with the smallest tree;
    the shortest queue where loads differ by over 32 and 10%."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        most, fewest = max(self.outstanding), min(self.outstanding)
        if most - fewest > 32 and most > 1.1 * fewest:
            return self.least([float(number) for number in self.outstanding])
        longest = max(cached)
        if longest > 0.5 * job.tokens:
            return self.least([-float(number) for number in cached])
        return self.least([float(self.index.blocks_of(place)) for place in range(self.count)])


class LlmdStyle(Policy):
    """llm-d's weighted scores: prefix 3, queue 2, KV cache use 2."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        low, high = min(self.waiting), max(self.waiting)
        capacity = CACHE_BLOCKS * BLOCK_TOKENS
        return self.least(
            [
                -3 * tokens / job.tokens
                - 2 * (1.0 if high == low else (high - waiting) / (high - low))
                - 2 * (1 - min(1.0, active / capacity))
                for tokens, waiting, active in zip(cached, self.waiting, self.active_tokens, strict=True)
            ]
        )


class AibrixStyle(Policy):
    """AIBrix's prefix-cache: fewest requests where loads differ by over 8; else the longest match among replicas with
    at most mean + 2 standard deviations of requests."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        loads = self.outstanding
        if max(loads) - min(loads) > 8:
            return self.least([float(number) for number in loads])
        mean = sum(loads) / self.count
        limit = mean + 2 * sqrt(sum((load - mean) ** 2 for load in loads) / self.count)
        return self.least(
            [
                -tokens + load / 1000 if load <= limit else float("inf")
                for tokens, load in zip(cached, loads, strict=True)
            ]
        )


class LMetric(Policy):
    """New prefill tokens (with those that wait) times the batch it joins."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return self.least(
            [
                (waiting + job.tokens - tokens) * (outstanding + 1.0)
                for waiting, tokens, outstanding in zip(self.waiting_tokens, cached, self.outstanding, strict=True)
            ]
        )


class DynamoStyle(Policy):
    """Dynamo's KV router: blocks to prefill (with those that wait) + blocks in use, shared ones once, the least."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return self.least(
            [
                (waiting + active + 2 * (job.tokens - tokens)) / BLOCK_TOKENS
                for waiting, tokens, active in zip(self.waiting_tokens, cached, self.active_tokens, strict=True)
            ]
        )


class OwnTime(Policy):
    """Queue + own prefill time (Mooncake's conductor)."""

    def pick(self, job: Job, cached: list[int], now: float) -> int:
        return self.least(
            [
                wait + prefill_seconds(job.tokens - tokens, tokens)
                for wait, tokens in zip(self.queued(now), cached, strict=True)
            ]
        )


class Ours(Policy):
    """The live gateway's router. `orders_queue`: for replicas that order their queue."""

    orders_queue = False

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self.router = Router(
            prefill_seconds,
            max_blocks_per_replica=CACHE_BLOCKS,
            max_blocks=CACHE_BLOCKS * replicas,
            orders_queue=self.orders_queue,
        )
        self.router.set_members([Member(str(number), slots=1_000_000) for number in range(replicas)], 0.0)
        self._tickets: dict[int, Ticket] = {}

    def choose(self, job: Job, now: float) -> int:
        ticket = self.router.choose(Ask(job.tokens, job.blocks, BLOCK_TOKENS), now)
        assert ticket is not None
        self.router.send(ticket, now)
        self._tickets[job.number] = ticket
        return ticket.index

    def first_token(self, job: Job, now: float) -> None:
        self.router.first_token(self._tickets[job.number], now)

    def end(self, job: Job, now: float) -> None:
        self.router.end(self._tickets.pop(job.number), now)


class OursOrdering(Ours):
    """With replicas that order their queue."""

    orders_queue = True


POLICIES: dict[str, Callable[[int], Policy]] = {
    "round robin": RoundRobin,
    "least loaded": LeastLoaded,
    "sticky prefix hash": Sticky,
    "sglang-router style": SglangStyle,
    "llm-d style 3/2/2": LlmdStyle,
    "AIBrix style": AibrixStyle,
    "LMetric": LMetric,
    "Dynamo style": DynamoStyle,
    "queue + own prefill": OwnTime,
    "Cloudcrest": Ours,
    "Cloudcrest, ordered queues": OursOrdering,
}
ORDERED = {"Cloudcrest, ordered queues"}
