"""The replay: jobs come, wait, run, are preempted and end, in simulated time. Pure; a run is the same each time.

A preempted job goes on from its last checkpoint, when its turn comes again. Decisions are at least `step_seconds`
apart.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Running, Workload
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.compute.scheduler.plan import Settings, decide
from cloudcrest.compute.scheduler.quotas import Quota
from cloudcrest.compute.simulator.fragments import fragmented_milli
from cloudcrest.compute.simulator.trace import Job

_SAMPLES = 200


class Options(msgspec.Struct, frozen=True):
    """`step_seconds`: between decisions. `checkpoint_seconds`: what a preempted job may lose at most."""

    step_seconds: float = 60.0
    checkpoint_seconds: float = 1800.0
    quotas: tuple[Quota, ...] = ()
    settings: Settings = Settings()


class Ended(msgspec.Struct, frozen=True):
    """One job, when it has ended. Seconds: it waited so long in all, ran so long, and did so much again."""

    workload: Workload
    arrived: float
    waited: float
    ran: float
    repeated: float
    preemptions: int
    types: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """The cluster at a moment. Thousandths of accelerators and of CPUs; `fragmented`: idle, and of no use to demands
    as they come.
    """

    at: float
    accelerators: int
    cpu: int
    fragmented: int
    waiting: int
    running: int


class Outcome(msgspec.Struct, frozen=True):
    """What a replay showed. `never`: jobs that no node could ever hold, and why, by sentence; what they asked for in
    all, in thousandths of CPUs and of accelerators times seconds.
    """

    nodes: int
    accelerators: int
    cpu_milli: int
    seconds: float
    ended: tuple[Ended, ...]
    samples: tuple[Sample, ...]
    never: dict[str, int]
    decisions: int
    never_cpu_milli_seconds: float = 0.0
    never_accelerator_milli_seconds: float = 0.0


class _Progress:
    """One job on its way."""

    __slots__ = ("began", "left", "preemptions", "ran", "repeated", "since", "types", "waited", "workload")

    def __init__(self, workload: Workload, seconds: float) -> None:
        self.workload = workload
        self.left = seconds
        self.since = workload.since
        self.began = 0.0
        self.waited = self.ran = self.repeated = 0.0
        self.preemptions = 0
        self.types: set[str] = set()


class Replay:
    """One replay. `tell` hears how many jobs have ended."""

    def __init__(
        self,
        nodes: Sequence[Node],
        jobs: Iterable[tuple[Job, Workload]],
        options: Options,
        tell: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._nodes = nodes
        self._options = options
        self._tell = tell
        self._cluster = Cluster(PackingIndex())
        self._cluster.update(nodes)
        self._coming = list(jobs)
        self._coming.reverse()
        self._waiting: dict[str, _Progress] = {}
        self._running: dict[str, _Progress] = {}
        self._ends: list[tuple[float, str, int]] = []
        self._ended: list[Ended] = []
        self._samples: list[Sample] = []
        self._never: Counter[str] = Counter()
        self._never_seconds = [0.0, 0.0]
        self._shapes: Counter[Demand] = Counter()
        self._decisions = 0

    def run(self) -> Outcome:
        """Goes on until nothing comes, waits or runs any more."""
        first = self._coming[-1][0].arrives if self._coming else 0.0
        last = self._coming[0][0].arrives if self._coming else 0.0
        every = max((last - first) / _SAMPLES, 1.0)
        now = next_sample = first
        while self._coming or self._ends or self._waiting:
            now = self._next_time(now)
            self._take_in(now)
            self._end(now)
            self._decide(now)
            if now >= next_sample:
                self._sample(now)
                next_sample = now + every
            if not self._coming and not self._ends:
                break  # what still waits waits for ever
        for progress in self._waiting.values():
            self._give_up(progress, "nothing runs any more, and it has no place: its quota is too small")
        accelerators = sum(node.accelerators for node in self._nodes) * WHOLE
        cpu = sum(node.cpu_milli for node in self._nodes)
        return Outcome(
            len(self._nodes), accelerators, cpu, now - first, tuple(self._ended), tuple(self._samples),
            dict(self._never), self._decisions, *self._never_seconds,
        )  # fmt: skip

    def _give_up(self, progress: _Progress, why: str) -> None:
        demand, seconds = progress.workload.demand, progress.workload.members * progress.left
        self._never[why] += 1
        self._never_seconds[0] += demand.cpu_milli * seconds
        self._never_seconds[1] += demand.accelerators * demand.milli * seconds

    def _next_time(self, now: float) -> float:
        """The next moment at which something happens, no sooner than a step from now."""
        times = []
        if self._coming:
            times.append(self._coming[-1][0].arrives)
        if self._ends:
            times.append(self._ends[0][0])
        return max(min(times, default=now), now + self._options.step_seconds)

    def _take_in(self, now: float) -> None:
        while self._coming and self._coming[-1][0].arrives <= now:
            job, workload = self._coming.pop()
            self._waiting[workload.id] = _Progress(workload, job.seconds)
            self._cluster.packing.observe(job.demand)
            self._shapes[job.demand] += 1

    def _end(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            at, name, turn = heapq.heappop(self._ends)
            progress = self._running.get(name)
            if progress is None or progress.preemptions != turn:
                continue  # it was preempted meanwhile
            del self._running[name]
            self._cluster.stop(name)
            progress.ran += at - progress.began
            self._ended.append(
                Ended(
                    progress.workload,
                    progress.workload.since,
                    progress.waited,
                    progress.ran,
                    progress.repeated,
                    progress.preemptions,
                    tuple(sorted(progress.types)),
                )
            )
            self._tell(len(self._ended))

    def _decide(self, now: float) -> None:
        for _ in range(2):  # who was preempted has left by the second time
            if not self._waiting:
                return
            for name, progress in self._running.items():
                since = (now - progress.began) % self._options.checkpoint_seconds
                running = self._cluster.running[name]
                self._cluster.running[name] = msgspec.structs.replace(running, preemption_cost_seconds=since)
            waiting = [progress.workload for progress in self._waiting.values()]
            plan = decide(self._cluster, waiting, self._options.quotas, now=now, settings=self._options.settings)
            self._decisions += 1
            for refused in plan.refused:
                if refused.code == "impossible":
                    self._give_up(self._waiting.pop(refused.workload_id), refused.reason.rpartition("; ")[2])
                elif (is_promised := refused.code == "waits_for_preemption") or self._waiting[
                    refused.workload_id
                ].workload.is_promised:
                    progress = self._waiting[refused.workload_id]
                    progress.workload = msgspec.structs.replace(progress.workload, is_promised=is_promised)
            for placed in plan.placed:
                progress = self._waiting.pop(placed.workload_id)
                progress.workload = msgspec.structs.replace(progress.workload, is_promised=False)
                self._cluster.start(Running(progress.workload, placed.spots, now))
                progress.types |= {self._cluster.nodes[spot.node_id].accelerator_type or "cpu" for spot in placed.spots}
                progress.waited += now - progress.since
                progress.began = now
                self._running[placed.workload_id] = progress
                heapq.heappush(self._ends, (now + progress.left, placed.workload_id, progress.preemptions))
            for preempted in plan.preempted:
                self._preempt(preempted.workload_id, now)
            if not plan.preempted:
                return

    def _preempt(self, name: str, now: float) -> None:
        progress = self._running.pop(name)
        self._cluster.stop(name)
        ran = now - progress.began
        kept = ran - ran % self._options.checkpoint_seconds
        progress.ran += ran
        progress.repeated += ran - kept
        progress.left -= kept
        progress.preemptions += 1
        progress.since = now
        self._waiting[name] = progress

    def _sample(self, now: float) -> None:
        frees = [self._cluster.packing.free(node.id) for node in self._nodes]
        idle = sum(sum(free.accelerators) for free in frees)
        idle_cpu = sum(free.cpu_milli for free in frees)
        fragmented = fragmented_milli(self._nodes, frees, self._shapes.most_common(20)) if idle else 0
        self._samples.append(
            Sample(
                now,
                sum(node.accelerators for node in self._nodes) * WHOLE - idle,
                sum(node.cpu_milli for node in self._nodes) - idle_cpu,
                fragmented,
                len(self._waiting),
                len(self._running),
            )
        )


def by_owner(ended: Iterable[Ended]) -> dict[str, list[Ended]]:
    """The jobs of each organization."""
    found: defaultdict[str, list[Ended]] = defaultdict(list)
    for each in ended:
        found[each.workload.owner[0] if each.workload.owner else ""].append(each)
    return dict(sorted(found.items()))
