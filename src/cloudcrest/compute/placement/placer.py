"""The live placer: keeps a region's nodes, what runs there and what waits, and has the pure scheduler decide.

    offers, adoptions, releases ┐
    nodes, asked of the fabric  ├─► decide (scheduler/plan.py) ─► news for each source
    settings, quotas            ┘

One decision is over everything that waits, whatever its source. What comes in a burst is decided at once.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import structlog

from cloudcrest.compute.api import Fabric, NodeFacts
from cloudcrest.compute.placement.books import Books
from cloudcrest.compute.placement.history import ShapeHistory
from cloudcrest.compute.placement.settings import PlacementSettings
from cloudcrest.compute.scheduler.model import Node, Placed, Plan, Preempted, Refused, Running, Workload
from cloudcrest.compute.scheduler.packing.api import Packing
from cloudcrest.compute.scheduler.plan import decide
from cloudcrest.compute.scheduler.quotas import Quota
from cloudcrest.infra.stepping import run_steps
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, SetupError

_SAVE_SECONDS = 30.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Rules:
    """What operators have set. `node_of`: a node as the scheduler is to see it. `draining`: ids of nodes that what runs
    is to leave. `rack_watts`: what a rack (`zone/rack`) may draw.
    """

    node_of: Callable[[NodeFacts], Node]
    draining: frozenset[str] = frozenset()
    rack_watts: Mapping[str, int] = field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()


@dataclass
class _Waiting:
    """One that waits. `refused`: what the last decision said of it. `is_promised`: it has had others told to stop."""

    source: str
    workload: Workload
    refused: Refused | None = None
    is_promised: bool = False

    def asked(self) -> Workload:
        """As the scheduler is asked."""
        if self.is_promised == self.workload.is_promised:
            return self.workload
        return msgspec.structs.replace(self.workload, is_promised=self.is_promised)


class LivePlacer:
    """Implements `compute.api.Placer`. `update` may be called at any time from the event loop; `run` does the rest.

    `packing` chooses between places, and looks ahead by what `history_path` has kept of this region's demands.
    """

    def __init__(
        self,
        fabric: Fabric,
        packing: Packing,
        rules: Rules,
        *,
        clock: Clock,
        settings: PlacementSettings | None = None,
        history_path: Path | None = None,
    ) -> None:
        self._fabric = fabric
        self._packing = packing
        self._rules = rules
        self._clock = clock
        self._settings = settings or PlacementSettings()
        self._books = Books(packing)
        self._waiting: dict[str, _Waiting] = {}
        self._source_of: dict[str, str] = {}
        self._preempted: dict[str, Preempted] = {}
        self._on_news: dict[str, list[Callable[[], None]]] = {}
        self._have_asked: set[str] = set()
        self._facts: dict[str, NodeFacts] | None = None
        self._away_since: dict[str, float] = {}
        self._no_nodes = "the region's nodes are not known yet"
        self._looked_at = self._decided_at = self._saved_at = float("-inf")
        self._is_due = True
        self._is_deciding = False
        self._deferred: list[Callable[[], None]] = []
        self._released: set[str] = set()
        self._wake = asyncio.Event()
        self._history = ShapeHistory(history_path)
        for demand in self._history:
            packing.observe(demand)

    # what sources call

    def watch(self, source: str, on_news: Callable[[], None]) -> None:
        self._on_news.setdefault(source, []).append(on_news)

    def offer(self, source: str, workload: Workload) -> None:
        self._when_decided(partial(self._offer, source, workload))

    def adopt(self, source: str, running: Running) -> None:
        self._when_decided(partial(self._adopt, source, running))

    def saved(self, source: str, workload_id: str, at: float) -> None:
        if self._source_of.get(workload_id) == source:
            self._books.saved(workload_id, at)

    def release(self, source: str, workload_id: str) -> None:
        if self._is_deciding:
            self._released.add(workload_id)
        self._when_decided(partial(self._release, source, workload_id))

    def news(self, source: str) -> Plan:
        if source not in self._have_asked:
            self._have_asked.add(source)
            self._is_due = True
            self._wake.set()
        running = [
            each
            for name, each in self._books.running.items()
            if self._source_of[name] == source and name not in self._released
        ]
        return Plan(
            tuple(Placed(each.workload.id, each.spots) for each in running),
            tuple(preempted for each in running if (preempted := self._told_to_leave(each)) is not None),
            tuple(
                each.refused or Refused(each.workload.id, "capacity", self._not_decided())
                for name, each in self._waiting.items()
                if each.source == source and name not in self._released
            ),
        )

    def node(self, node_id: str) -> NodeFacts | None:
        return None if self._facts is None else self._facts.get(node_id)

    def is_lost(self, node_id: str) -> bool:
        if self._facts is None:
            return False
        since = self._away_since.get(node_id)
        if since is None:
            return node_id not in self._facts
        return self._clock.monotonic() - since >= self._settings.lost_seconds

    # what the region service calls

    def seen(self) -> list[NodeFacts] | None:
        """The nodes as they were last heard of. None: none have been asked for yet."""
        return None if self._facts is None else [*self._facts.values()]

    def update(self, rules: Rules) -> None:
        """Sets what operators want."""
        self._rules = rules
        self._when_decided(self._take_nodes)
        self._tell(self._on_news)

    async def run(self) -> None:
        """Steps until cancelled."""

        async def step() -> float:
            await asyncio.sleep(self._settings.debounce_seconds)
            await self.step()
            return self._settings.nodes_seconds

        await run_steps(step, self._wake, self._settings.nodes_seconds)

    async def step(self) -> None:
        """Asks for nodes where that is due, and decides where something has changed."""
        now = self._clock.monotonic()
        if now - self._looked_at >= self._settings.nodes_seconds:
            self._looked_at = now
            await self._look()
        waits_long = bool(self._waiting) and now - self._decided_at >= self._settings.again_seconds
        if self._facts is not None and self._on_news.keys() <= self._have_asked and (self._is_due or waits_long):
            self._is_due = False
            self._decided_at = now
            await self._decide()
        if not self._history.is_saved and now - self._saved_at >= _SAVE_SECONDS:
            self._saved_at = now
            await self._save()

    # inside

    def _when_decided(self, change: Callable[[], None]) -> None:
        """Does it now; while a decision is being made, which tries things in the books, right after that."""
        if self._is_deciding:
            self._deferred.append(change)
        else:
            change()
        self._is_due = True
        self._wake.set()

    def _offer(self, source: str, workload: Workload) -> None:
        if workload.id in self._books.running:
            return
        if workload.id not in self._waiting:
            self._history.add(workload.demand)
            self._packing.observe(workload.demand)
        known = self._waiting.get(workload.id)
        is_promised = known is not None and known.is_promised and known.workload.demand == workload.demand
        self._waiting[workload.id] = _Waiting(source, workload, is_promised=is_promised)

    def _adopt(self, source: str, running: Running) -> None:
        self._waiting.pop(running.workload.id, None)
        self._source_of[running.workload.id] = source
        self._books.start(running)

    def _release(self, source: str, workload_id: str) -> None:
        if self._waiting.pop(workload_id, None) is None and workload_id not in self._books.running:
            return
        self._books.stop(workload_id)
        self._source_of.pop(workload_id, None)
        self._preempted.pop(workload_id, None)
        _log.info("released", source=source, workload=workload_id)

    async def _look(self) -> None:
        try:
            nodes = await self._fabric.nodes()
        except CloudcrestError as error:
            # What was known of them stands: where nodes cannot be asked for, they need not be gone.
            self._no_nodes = f"the region's nodes cannot be asked for: {error.message}"
            _log.warning("fabric_unavailable", error=error.message)
            return
        facts = {node.id: node for node in nodes}
        self._note_away(facts)
        if facts != self._facts:
            self._log_nodes(facts)
            self._facts = facts
            self._take_nodes()
            self._is_due = True
            self._tell(self._on_news)

    def _note_away(self, facts: Mapping[str, NodeFacts]) -> None:
        """Since when each node is away that was there, or that something runs on."""
        now = self._clock.monotonic()
        wanted = {spot.node_id for running in self._books.running.values() for spot in running.spots}
        away = {name for name in {*facts, *wanted} if name not in facts or not facts[name].is_ready}
        self._away_since = {name: self._away_since.get(name, now) for name in away}

    def _log_nodes(self, facts: Mapping[str, NodeFacts]) -> None:
        ready = {node_id for node_id, node in facts.items() if node.is_ready}
        before = {node_id for node_id, node in (self._facts or {}).items() if node.is_ready}
        if ready != before:
            _log.info("nodes_changed", come=sorted(ready - before), gone=sorted(before - ready), ready=len(ready))

    def _take_nodes(self) -> None:
        if self._facts is not None:
            nodes = [self._rules.node_of(facts) for facts in self._facts.values()]
            disk_room = {facts.id: facts.disk_room_bytes for facts in self._facts.values()}
            self._books.update(nodes, self._rules.rack_watts, disk_room)

    async def _decide(self) -> None:
        """One decision over everything that waits, and what follows from it. In a thread: it takes milliseconds, and
        longer where it learns from a history.
        """
        now = self._clock.unix_seconds()
        waiting = [each.asked() for each in self._waiting.values()]
        if not waiting:
            return
        self._books.reckon_losses(now)
        self._is_deciding = True
        try:
            plan = await asyncio.to_thread(decide, self._books.cluster, waiting, self._rules.quotas, now=now)
        finally:
            self._is_deciding = False
        self._carry_out(plan, now)
        deferred, self._deferred = self._deferred, []
        self._released.clear()
        for change in deferred:
            change()

    def _carry_out(self, plan: Plan, now: float) -> None:
        concerned = set()
        for placed in plan.placed:
            waited = self._waiting.pop(placed.workload_id)
            self._source_of[placed.workload_id] = waited.source
            self._books.start(Running(waited.workload, placed.spots, now))
            concerned.add(waited.source)
            nodes = [spot.node_id for spot in placed.spots]
            seconds = round(max(0.0, now - waited.workload.since), 3)
            _log.info("placed", workload=placed.workload_id, nodes=nodes, waited_seconds=seconds)
        for preempted in plan.preempted:
            self._preempted[preempted.workload_id] = preempted
            self._books.leaves(preempted.workload_id)
            concerned.add(self._source_of[preempted.workload_id])
            _log.info("preempted", workload=preempted.workload_id, by=preempted.by, reason=preempted.reason)
        for refused in plan.refused:
            waits = self._waiting[refused.workload_id]
            # For whom others were told to stop, he comes first until he has his place, whoever asks meanwhile.
            waits.is_promised = refused.code == "waits_for_preemption"
            if waits.refused != refused:
                waits.refused = refused
                concerned.add(waits.source)
                _log.info("waits", workload=refused.workload_id, code=refused.code, reason=refused.reason)
        self._tell(concerned)

    def _told_to_leave(self, running: Running) -> Preempted | None:
        workload_id = running.workload.id
        if workload_id in self._preempted:
            return self._preempted[workload_id]
        drained = sorted({spot.node_id for spot in running.spots} & self._rules.draining)
        return Preempted(workload_id, "", f"node '{drained[0]}' is being drained") if drained else None

    def _not_decided(self) -> str:
        if self._facts is None:
            return self._no_nodes
        missing = sorted(self._on_news.keys() - self._have_asked)
        return f"{' and '.join(missing)} must first say what runs already" if missing else "is about to be placed"

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self._history.save)
        except (OSError, SetupError) as error:
            _log.error("shapes_not_saved", error=str(error))

    def _tell(self, sources: Mapping[str, object] | set[str]) -> None:
        for source in sources:
            for on_news in self._on_news.get(source, ()):
                on_news()
