"""Fakes of what jobs and models are placed through, held to the same protocols."""

from collections.abc import Callable, Sequence

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.jobs.api import MeteredMember
from cloudcrest.compute.scheduler.model import Placed, Plan, Preempted, RefusalCode, Refused, Running, Spot, Workload
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, LimitExceeded


class FakePlacer:
    """Implements `compute.api.Placer`: members go round the `nodes`, at most `most` workloads at once. Those `lost` are
    known as not ready, and get nothing.
    """

    def __init__(self, nodes: Sequence[str] = ("local",), most: int = 1000) -> None:
        self.nodes = tuple(nodes)
        self.most = most
        self.lost: set[str] = set()
        self.code: RefusalCode = "capacity"
        self.addresses: dict[str, str] = {}
        self.adopted: list[Running] = []
        self._turn = 0
        self._waiting: dict[str, Workload] = {}
        self._placed: dict[str, Placed] = {}
        self._preempted: dict[str, Preempted] = {}
        self.saves: dict[str, float] = {}
        self._on_news: list[Callable[[], None]] = []

    def watch(self, source: str, on_news: Callable[[], None]) -> None:  # noqa: ARG002 - there is one source
        self._on_news.append(on_news)

    def offer(self, source: str, workload: Workload) -> None:  # noqa: ARG002
        if workload.id not in self._placed:
            self._waiting[workload.id] = workload
        self._place()

    def adopt(self, source: str, running: Running) -> None:  # noqa: ARG002
        self.adopted.append(running)
        self._placed[running.workload.id] = Placed(running.workload.id, running.spots)

    def saved(self, source: str, workload_id: str, at: float) -> None:  # noqa: ARG002
        self.saves[workload_id] = at

    def release(self, source: str, workload_id: str) -> None:  # noqa: ARG002
        self._waiting.pop(workload_id, None)
        self._placed.pop(workload_id, None)
        self._preempted.pop(workload_id, None)
        self._place()

    def news(self, source: str) -> Plan:  # noqa: ARG002
        refused = tuple(Refused(each, self.code, "needs 1 node; all are taken") for each in self._waiting)
        return Plan(tuple(self._placed.values()), tuple(self._preempted.values()), refused)

    def node(self, node_id: str) -> NodeFacts | None:
        if node_id not in self.nodes:
            return None
        is_ready = node_id not in self.lost
        return NodeFacts(node_id, self.addresses.get(node_id, "127.0.0.1"), 64_000, 1 << 40, is_ready=is_ready)

    def is_lost(self, node_id: str) -> bool:
        return node_id in self.lost

    def preempt(self, workload_id: str, reason: str = "another needs its place", by: str = "another") -> None:
        """Has a placed workload leave; `by` empty: its node is drained."""
        self._preempted[workload_id] = Preempted(workload_id, by, reason)
        self._tell()

    def _place(self) -> None:
        for workload in [*self._waiting.values()]:
            ready = [name for name in self.nodes if name not in self.lost]
            if not ready or len(self._placed) >= self.most:
                break
            indexes = tuple(range(workload.demand.accelerators))
            spots = tuple(Spot(ready[(self._turn + each) % len(ready)], indexes) for each in range(workload.members))
            self._turn += workload.members
            self._placed[workload.id] = Placed(workload.id, spots)
            del self._waiting[workload.id]
        self._tell()

    def _tell(self) -> None:
        for on_news in self._on_news:
            on_news()


class FakeNodes:
    """A fabric that has nodes and runs nothing. `failure` set: it cannot be reached."""

    def __init__(self, *machines: NodeFacts) -> None:
        self.machines = list(machines)
        self.failure: CloudcrestError | None = None

    async def nodes(self) -> list[NodeFacts]:
        if self.failure is not None:
            raise self.failure
        return list(self.machines)

    async def start(self, spec: ProcessSpec) -> None:
        raise InvalidInput(f"'{spec.id}' cannot be run here")

    async def list(self) -> list[ProcessStatus]:
        return []

    async def stop(self, process_id: str) -> None:
        """There is nothing to stop."""


class FakeMeter:
    """Implements `compute.jobs.api.JobMeter`: remembers what it was told, and refuses past `seconds` of each member."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self.seconds = seconds
        self.opened: dict[str, MeteredMember] = {}
        self.marks: dict[str, tuple[float, float]] = {}
        self.closed: dict[str, tuple[float | None, float | None]] = {}

    async def open(self, member: MeteredMember) -> None:
        if self.seconds <= 0:
            raise LimitExceeded("the project's budget is spent", code="insufficient_quota")
        self.opened[member.id] = member

    async def mark(self, member: MeteredMember, started_at: float, until: float) -> None:
        self.marks[member.id] = (started_at, until)
        if until - started_at > self.seconds:
            raise LimitExceeded("the project's budget is spent", code="insufficient_quota")

    async def close(self, member: MeteredMember, started_at: float | None, ended_at: float | None) -> None:
        self.closed[member.id] = (started_at, ended_at)
