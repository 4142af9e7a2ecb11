"""One replay: a list of requests, a number of replicas, a policy."""

import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.routing.policies import ORDERED, POLICIES, Policy
from bench.routing.replicas import ChunkedReplica, Event, FifoReplica, Job, Replica, prefill_seconds
from bench.routing.trace import TraceRequest

JITTER_SECONDS = 3.0


class Run(NamedTuple):
    """What is replayed. `load`: arrivals per trace arrival; `seed` draws the jitter."""

    setting: str
    policy: str
    replicas: int
    load: float
    seed: int


class Outcome(NamedTuple):
    """hit: share of prompt tokens that were cached. Times to the first token in seconds."""

    hit: float
    mean_seconds: float
    p99_seconds: float


def jittered(trace: Sequence[TraceRequest], load: float, seed: int) -> list[Job]:
    """The trace's arrivals lie on a grid of three seconds: each is moved by up to that much."""
    rng = random.Random(seed)
    arrivals = sorted((each.arrived_at + rng.random() * JITTER_SECONDS, number) for number, each in enumerate(trace))
    jobs = []
    for at, number in arrivals:
        each = trace[number]
        jobs.append(Job(number, at / load, each.input_tokens, each.blocks, each.output_tokens))
    return jobs


def replay(trace: Sequence[TraceRequest], run: Run) -> Outcome:
    """Serves every request and measures it."""
    jobs = jittered(trace, run.load, run.seed)
    policy = POLICIES[run.policy](run.replicas)
    replicas: list[Replica] = [
        FifoReplica() if run.setting == "base" else ChunkedReplica(orders=run.policy in ORDERED)
        for _ in range(run.replicas)
    ]
    for job in jobs:
        _advance(replicas, policy, job.arrived_at)
        replicas[policy.choose(job, job.arrived_at)].submit(job)
    _advance(replicas, policy, float("inf"))
    return summary(jobs)


def _advance(replicas: Sequence[Replica], policy: Policy, until: float) -> None:
    events: list[Event] = []
    for replica in replicas:
        replica.advance(until, events)
    if events:
        events.sort(key=lambda event: (event[0], event[2].number, event[1]))
        for at, kind, job in events:
            if kind == 0:
                policy.first_token(job, at)
            else:
                policy.end(job, at)


def summary(jobs: Sequence[Job]) -> Outcome:
    waits = sorted(job.first_token_at - job.arrived_at for job in jobs)
    hit = sum(job.cached_tokens for job in jobs) / sum(job.tokens for job in jobs)
    return Outcome(hit, statistics.fmean(waits), waits[min(len(waits) - 1, int(0.99 * len(waits)))])


def without_queues(trace: Sequence[TraceRequest]) -> Outcome:
    """The bound: one cache that forgets nothing, and no waiting."""
    seen: set[int] = set()
    jobs = []
    for number, each in enumerate(trace):
        held = next((depth for depth, block in enumerate(each.blocks) if block not in seen), len(each.blocks))
        seen.update(each.blocks)
        job = Job(number, 0.0, each.input_tokens, each.blocks, each.output_tokens)
        job.cached_tokens = min(held * 512, each.input_tokens - 1)
        job.first_token_at = prefill_seconds(each.input_tokens - job.cached_tokens, job.cached_tokens)
        jobs.append(job)
    return summary(jobs)
