"""What a replay comes to, in numbers: allocation, waiting, preemption, fairness, cost. Pure."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.simulator.replay import Ended, Outcome, Sample, by_owner

HOUR = 3600.0


class Waiting(msgspec.Struct, frozen=True):
    """Of some jobs: how long they waited in all (seconds), and how often they were preempted."""

    jobs: int
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    preemptions: int
    repeated_hours: float


class Share(msgspec.Struct, frozen=True):
    """One organization: what it used, how its jobs fared, what that costs. `stretch`: mean of (waited + ran) ÷ ran."""

    owner: str
    jobs: int
    accelerator_hours: float
    cpu_hours: float
    stretch: float
    cost: float


class Report(msgspec.Struct, frozen=True):
    """A replay's report. `allocated_percent`, `allocated_cpu_percent`: of all, of the whole time, as what ran took it;
    what was done again counts. `fragmented_percent`: of all accelerators, between the samples. `never`: jobs that found
    no place, by why; `never_…`: how many and what they asked for, and which part of all jobs and hours that is.
    `fairness`: Jain's index over organizations' stretch, 1 where all fare alike.
    """

    nodes: int
    accelerators: float
    cpus: float
    hours: float
    jobs: int
    never: dict[str, int]
    never_jobs: int
    never_jobs_percent: float
    never_cpu_hours: float
    never_cpu_percent: float
    never_accelerator_hours: float
    never_accelerator_percent: float
    allocated_percent: float
    allocated_cpu_percent: float
    fragmented_percent: float
    firm: Waiting
    spot: Waiting
    organizations: tuple[Share, ...]
    fairness: float
    cost: float
    decisions: int
    samples: tuple[Sample, ...] = ()


def report(outcome: Outcome, prices: Mapping[str, float]) -> Report:
    """`prices`: of a second of an accelerator by type, and of a CPU as `cpu`."""
    shares = tuple(_share(owner, ended, prices) for owner, ended in by_owner(outcome.ended).items())
    stretches = np.array([share.stretch for share in shares])
    fairness = float(stretches.sum() ** 2 / (len(stretches) * (stretches**2).sum())) if len(stretches) else 1.0
    samples, seconds = outcome.samples, outcome.seconds
    never_jobs = sum(outcome.never.values())
    cpu_seconds, accelerator_seconds = (
        sum(map(_cpu_seconds, outcome.ended)),
        sum(map(_accelerator_seconds, outcome.ended)),
    )
    never_cpu_seconds = outcome.never_cpu_milli_seconds / 1000
    never_accelerator_seconds = outcome.never_accelerator_milli_seconds / WHOLE
    return Report(
        nodes=outcome.nodes,
        accelerators=outcome.accelerators / WHOLE,
        cpus=outcome.cpu_milli / 1000,
        hours=outcome.seconds / HOUR,
        jobs=len(outcome.ended),
        never=outcome.never,
        never_jobs=never_jobs,
        never_jobs_percent=_part(never_jobs, len(outcome.ended)),
        never_cpu_hours=never_cpu_seconds / HOUR,
        never_cpu_percent=_part(never_cpu_seconds, cpu_seconds),
        never_accelerator_hours=never_accelerator_seconds / HOUR,
        never_accelerator_percent=_part(never_accelerator_seconds, accelerator_seconds),
        allocated_percent=_percent(WHOLE * accelerator_seconds, outcome.accelerators, seconds),
        allocated_cpu_percent=_percent(1000 * cpu_seconds, outcome.cpu_milli, seconds),
        fragmented_percent=_fragmented_percent(samples, outcome.accelerators),
        firm=_waiting([each for each in outcome.ended if not each.workload.is_spot]),
        spot=_waiting([each for each in outcome.ended if each.workload.is_spot]),
        organizations=shares,
        fairness=fairness,
        cost=sum(share.cost for share in shares),
        decisions=outcome.decisions,
        samples=samples,
    )


def _waiting(ended: Sequence[Ended]) -> Waiting:
    waited = np.array([each.waited for each in ended] or [0.0])
    p50, p95, p99 = (float(value) for value in np.quantile(waited, [0.5, 0.95, 0.99]))
    return Waiting(
        len(ended), float(waited.mean()), p50, p95, p99,
        sum(each.preemptions for each in ended), sum(each.repeated for each in ended) / HOUR,
    )  # fmt: skip


def _share(owner: str, ended: Sequence[Ended], prices: Mapping[str, float]) -> Share:
    accelerator_seconds = cpu_seconds = cost = 0.0
    for each in ended:
        accelerators, cpus = _accelerator_seconds(each), _cpu_seconds(each)
        accelerator_seconds += accelerators
        cpu_seconds += cpus
        kinds = [kind for kind in each.types if kind != "cpu"]
        if kinds:
            cost += accelerators * sum(prices.get(kind, 0.0) for kind in kinds) / len(kinds)
        cost += cpus * prices.get("cpu", 0.0)
    stretches = [(each.waited + each.ran) / each.ran for each in ended if each.ran > 0]
    return Share(
        owner, len(ended), accelerator_seconds / HOUR, cpu_seconds / HOUR,
        float(np.mean(stretches)) if stretches else 1.0, cost,
    )  # fmt: skip


def _accelerator_seconds(ended: Ended) -> float:
    demand = ended.workload.demand
    return ended.ran * ended.workload.members * demand.accelerators * demand.milli / WHOLE


def _cpu_seconds(ended: Ended) -> float:
    return ended.ran * ended.workload.members * ended.workload.demand.cpu_milli / 1000


def _percent(used: float, whole: int, seconds: float) -> float:
    return 100 * used / (whole * seconds) if whole and seconds else 0.0


def _part(never: float, ended: float) -> float:
    return 100 * never / (never + ended) if never else 0.0


def _fragmented_percent(samples: Sequence[Sample], accelerators: int) -> float:
    """Samples come when something happens, so each counts for the time until the next."""
    fragmented = sum(sample.fragmented * (after.at - sample.at) for sample, after in pairwise(samples))
    return _percent(fragmented, accelerators, samples[-1].at - samples[0].at) if samples else 0.0
