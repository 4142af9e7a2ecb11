"""Simulated replicas of a 70B model on eight A100: an analytic prefill, an LRU of KV blocks, optionally decoding.

Times are seconds since the trace's start. Prefill of n tokens after c cached ones: 2·parameters·n + causal attention
(4·layers·width·(n²/2 + n·c)) operations at half of 8×312 TFLOP/s, and 20 ms for each request.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudcrest.gateway.routing.prefix_index import PrefixIndex

BLOCK_TOKENS = 512
CACHE_BLOCKS = 5_859
OVERHEAD_SECONDS = 0.02
CHUNK_TOKENS = 512
CHUNKS_PER_DECODE = 1
_OPERATIONS_PER_SECOND = 0.5 * 8 * 312e12
_LINEAR_SECONDS = 2 * 70e9 / _OPERATIONS_PER_SECOND
_ATTENTION_SECONDS = 4 * 80 * 8192 / _OPERATIONS_PER_SECOND
CHUNK_SECONDS = CHUNK_TOKENS * _LINEAR_SECONDS
_DECODE_SECONDS = 0.025
_DECODE_PER_REQUEST_SECONDS = 0.0015
_DECODE_PER_CONTEXT_TOKEN_SECONDS = 1e-7
PATIENCE = 0.1


def work_seconds(new_tokens: int, cached_tokens: int) -> float:
    """The operations of a prefill, without the fixed part."""
    return new_tokens * (_LINEAR_SECONDS + _ATTENTION_SECONDS * (new_tokens / 2 + cached_tokens))


def prefill_seconds(new_tokens: int, cached_tokens: int) -> float:
    """A whole prefill on an idle replica."""
    return work_seconds(new_tokens, cached_tokens) + OVERHEAD_SECONDS


@dataclass(slots=True, eq=False)
class Job:
    """A request at a replica. `cached_tokens` is set when its prefill begins; -1: not yet."""

    number: int
    arrived_at: float
    tokens: int
    blocks: list[int]
    output_tokens: int
    cached_tokens: int = -1
    done_tokens: int = 0
    left_seconds: float = 0.0
    first_token_at: float = -1.0
    decoded: int = 0


Event = tuple[float, int, Job]
"""(when, 0 first token or 1 end, which)."""


@dataclass(slots=True)
class FifoReplica:
    """`base`: prefill only, one at a time, in order of arrival."""

    cache: PrefixIndex = field(default_factory=lambda: PrefixIndex(CACHE_BLOCKS))
    free_at: float = 0.0
    jobs: deque[Job] = field(default_factory=deque)

    def submit(self, job: Job) -> None:
        job.cached_tokens = cached_tokens(self.cache, job)
        self.free_at = max(self.free_at, job.arrived_at) + prefill_seconds(
            job.tokens - job.cached_tokens, job.cached_tokens
        )
        job.first_token_at = self.free_at
        self.cache.insert(0, job.blocks)
        self.jobs.append(job)

    def advance(self, until: float, events: list[Event]) -> None:
        while self.jobs and self.jobs[0].first_token_at <= until:
            job = self.jobs.popleft()
            events.append((job.first_token_at, 0, job))
            events.append((job.first_token_at, 1, job))


class ChunkedReplica:
    """`variant`: prefill in chunks of 512 tokens with decode steps of all running requests between them.

    `orders`: the chunk of the request with the least (prefill left − 0.1 · waited) goes first, else order of arrival.
    """

    def __init__(self, *, orders: bool) -> None:
        self.cache = PrefixIndex(CACHE_BLOCKS)
        self.orders = orders
        self.now = 0.0
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.context_tokens = 0
        self._chunks_since_decode = 0

    def submit(self, job: Job) -> None:
        if not self.waiting and not self.running:
            self.now = max(self.now, job.arrived_at)
        job.left_seconds = prefill_seconds(job.tokens - cached_tokens(self.cache, job), 0) if self.orders else 0.0
        self.waiting.append(job)

    def step_seconds(self) -> float:
        """One decode step of all running requests."""
        return (
            _DECODE_SECONDS
            + _DECODE_PER_REQUEST_SECONDS * len(self.running)
            + _DECODE_PER_CONTEXT_TOKEN_SECONDS * self.context_tokens
        )

    def advance(self, until: float, events: list[Event]) -> None:
        """Works until `until`; a step that begins before it is finished."""
        while self.now < until and (self.waiting or self.running):
            if self.waiting and not (self.running and self._chunks_since_decode >= CHUNKS_PER_DECODE):
                self._chunk(events)
            else:
                self._decode(until, events)

    def _chunk(self, events: list[Event]) -> None:
        waiting = self.waiting
        job = waiting[0]
        if self.orders and len(waiting) > 1:
            job = min(waiting, key=lambda each: each.left_seconds + PATIENCE * each.arrived_at)
        if job.cached_tokens < 0:
            job.cached_tokens = job.done_tokens = cached_tokens(self.cache, job)
            job.left_seconds = prefill_seconds(job.tokens - job.cached_tokens, job.cached_tokens)
            self.now += OVERHEAD_SECONDS
            job.left_seconds -= OVERHEAD_SECONDS
        size = min(CHUNK_TOKENS, job.tokens - job.done_tokens)
        seconds = work_seconds(size, job.done_tokens)
        self.now += seconds
        job.left_seconds -= seconds
        job.done_tokens += size
        self._chunks_since_decode += 1
        if job.done_tokens >= job.tokens:
            waiting.remove(job)
            self.cache.insert(0, job.blocks)
            job.first_token_at = self.now
            events.append((self.now, 0, job))
            job.decoded = 1
            if job.output_tokens <= 1:
                events.append((self.now, 1, job))
            else:
                self.running.append(job)
                self.context_tokens += job.tokens

    def _decode(self, until: float, events: list[Event]) -> None:
        """One step, or where nothing waits as many as fit before `until` or the next end."""
        self._chunks_since_decode = 0
        running = self.running
        seconds = self.step_seconds()
        steps = 1
        if not self.waiting:
            steps = min(each.output_tokens - each.decoded for each in running)
            steps = max(1, int(min(steps, (until - self.now) / seconds + 1)))
            seconds += _DECODE_PER_CONTEXT_TOKEN_SECONDS * len(running) * (steps - 1) / 2
        self.now += seconds * steps
        self.context_tokens += steps * len(running)
        ended = False
        for each in running:
            each.decoded += steps
            ended = ended or each.decoded >= each.output_tokens
        if ended:
            for each in [each for each in running if each.decoded >= each.output_tokens]:
                running.remove(each)
                self.context_tokens -= each.tokens + each.decoded - 1
                events.append((self.now, 1, each))


Replica = FifoReplica | ChunkedReplica
MakeReplica = Callable[[], Replica]


def cached_tokens(cache: PrefixIndex, job: Job) -> int:
    """Tokens of the prompt that the cache holds; at least one token is always computed."""
    levels = cache.match(job.blocks, 1)
    return min(levels[-1][0] * BLOCK_TOKENS, job.tokens - 1) if levels else 0
