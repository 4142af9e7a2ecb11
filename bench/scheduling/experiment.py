"""One run: demands come one after the other, nothing leaves, what does not fit is dropped."""

import time

import msgspec
import numpy as np

from bench.scheduling.policies import POLICIES, Fragmentation
from bench.scheduling.trace import Workload, arrivals, size


class Run(msgspec.Struct, frozen=True):
    """What is run: a workload's name, a policy's, a seed, so many times the machines."""

    workload: str
    policy: str
    seed: int
    times: int = 1


class Outcome(msgspec.Struct, frozen=True):
    """Percent of all accelerators: given out when demands for all of them have come, and at the end (1.3 times as
    many), and fragmented at the end. `decision_milliseconds`: mean and 99th percentile, without the first 100.
    """

    run: Run
    accelerators: int
    allocated_at_100: float
    allocated_at_130: float
    fragmented_at_130: float
    decisions: int
    decision_milliseconds: float
    decision_p99_milliseconds: float
    seconds: float


def simulate(run: Run, workload: Workload) -> Outcome:
    """Runs it. The clock runs while a policy decides, and not besides."""
    demands = arrivals(workload, run.seed)
    policy = POLICIES[run.policy](workload, run.seed)
    capacity = workload.capacity
    arrived = placed = 0
    at_100 = None
    took = np.zeros(len(demands))
    for number, demand in enumerate(demands):
        began = time.perf_counter()
        is_placed = policy.place(demand)
        took[number] = time.perf_counter() - began
        arrived += size(demand)
        placed += size(demand) if is_placed else 0
        if at_100 is None and arrived >= capacity:
            at_100 = placed
    fragmented = float(Fragmentation(workload).of(policy.rows()).sum())
    settled = took[100:] if len(took) > 200 else took
    return Outcome(
        run,
        capacity // 1000,
        100 * (placed if at_100 is None else at_100) / capacity,
        100 * placed / capacity,
        100 * fragmented / capacity,
        len(demands),
        1000 * float(settled.mean()),
        1000 * float(np.quantile(settled, 0.99)),
        float(took.sum()),
    )
