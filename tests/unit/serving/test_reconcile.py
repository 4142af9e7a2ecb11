"""The decision core: what it decides, and what it never does whatever happens."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudcrest.serving.reconcile import (
    Action,
    Drain,
    Known,
    Restart,
    Start,
    Stop,
    Wanted,
    backoff_seconds,
    failures_after,
    reconcile,
)
from cloudcrest.serving.settings import ServingSettings

SETTINGS = ServingSettings()


def wanted(low: int = 1, high: int | None = None, generation: int = 1) -> Wanted:
    return Wanted("dep_1", generation, low, max(low, 1) if high is None else high)


def replica(name: str, phase: str, *, generation: int = 1, since: float = 0.0, **rest: float | str | None) -> Known:
    fields = {"id": name, "deployment_id": "dep_1", "generation": generation, "phase": phase, "since": since}
    return msgspec.convert(fields | rest, Known)


def actions(want: list[Wanted], known: list[Known], now: float = 100.0) -> list[Action]:
    return list(reconcile(want, known, now, SETTINGS).actions)


def test_starts_what_is_missing() -> None:
    assert actions([wanted(2)], []) == [Start("dep_1", 1), Start("dep_1", 1)]
    assert actions([wanted(2)], [replica("a", "starting")]) == [Start("dep_1", 1)]


def test_leaves_alone_what_is_as_wanted() -> None:
    assert actions([wanted(2)], [replica("a", "ready"), replica("b", "fetching")]) == []


def test_restarts_when_the_wait_is_over_and_says_when_that_is() -> None:
    waiting = replica("a", "backoff", retry_at=104.0)
    plan = reconcile([wanted()], [waiting], 100.0, SETTINGS)
    assert plan.actions == ()
    assert plan.look_again_at == 104.0
    assert actions([wanted()], [waiting], now=104.0) == [Restart("a")]


def test_what_is_on_a_drained_node_serves_until_another_does() -> None:
    moving = replica("a", "ready", leaving="moves")
    assert actions([wanted()], [moving]) == [Start("dep_1", 1)]
    assert actions([wanted()], [moving, replica("b", "placing")]) == []
    assert actions([wanted()], [moving, replica("b", "ready")]) == [Drain("a")]
    assert actions([wanted()], [replica("a", "starting", leaving="moves")]) == [Stop("a")]


def test_whose_place_another_needs_goes_at_once_and_waits_again() -> None:
    assert actions([wanted()], [replica("a", "ready", leaving="preempted")]) == [Drain("a")]
    assert actions([wanted()], [replica("a", "draining", since=99.0, leaving="preempted")]) == []
    assert actions([wanted()], [replica("a", "backoff", retry_at=9.0, leaving="preempted")]) == [Stop("a")]
    assert actions([wanted()], []) == [Start("dep_1", 1)]


def test_whose_node_is_lost_is_replaced_at_once() -> None:
    for phase in ("ready", "starting", "backoff", "fetching"):
        assert actions([wanted()], [replica("a", phase, leaving="lost")]) == [Stop("a"), Start("dep_1", 1)]
    assert actions([wanted()], [replica("a", "draining", since=99.0, leaving="lost")]) == [
        Start("dep_1", 1),
        Stop("a"),
    ]


def test_new_generation_is_ready_before_the_old_drains() -> None:
    old = replica("old", "ready")
    want = [wanted(generation=2)]
    assert actions(want, [old]) == [Start("dep_1", 2)]
    assert actions(want, [old, replica("new", "starting", generation=2)]) == []
    assert actions(want, [old, replica("new", "ready", generation=2)]) == [Drain("old")]


def test_rolls_over_one_by_one_within_one_more_than_wanted() -> None:
    olds = [replica("o1", "ready", since=1.0), replica("o2", "ready", since=2.0)]
    want = [wanted(2, 2, generation=2)]
    assert actions(want, olds) == [Start("dep_1", 2)]
    new = replica("n1", "ready", generation=2, since=50.0)
    assert actions(want, [*olds, new]) == [Drain("o1")]
    draining = replica("o1", "draining", since=99.5)
    assert actions(want, [draining, olds[1], new]) == []
    assert actions(want, [olds[1], new]) == [Start("dep_1", 2)]


def test_old_replicas_that_serve_nobody_go_at_once() -> None:
    assert actions([wanted(generation=2)], [replica("old", "backoff", retry_at=1e9)]) == [
        Stop("old"),
    ]
    assert actions([wanted(generation=2)], []) == [Start("dep_1", 2)]


def test_scales_down_those_that_do_not_serve_first_then_the_youngest() -> None:
    known = [replica("a", "ready", since=1.0), replica("b", "ready", since=2.0), replica("c", "starting", since=0.0)]
    assert actions([wanted(2, 3)], known) == [Stop("c")]
    assert actions([wanted(1, 3)], known) == [Stop("c"), Drain("b")]


def test_a_deployment_that_is_gone_drains() -> None:
    known = [replica("a", "ready"), replica("b", "fetching")]
    assert actions([], known) == [Drain("a"), Stop("b")]


def test_a_drained_replica_stops_when_idle_but_not_before_gateways_know() -> None:
    busy = replica("a", "draining", since=100.0, in_flight=2)
    idle = replica("a", "draining", since=100.0, in_flight=0)
    assert actions([], [idle], now=100.5) == []
    assert actions([], [idle], now=101.0) == [Stop("a")]
    assert actions([], [busy], now=101.0) == []
    assert actions([], [busy], now=100.0 + SETTINGS.drain_most_seconds) == [Stop("a")]


def test_backoff_doubles_to_a_minute_and_starts_anew_after_a_healthy_one() -> None:
    assert [backoff_seconds(n, SETTINGS) for n in (1, 2, 3, 6, 7, 100)] == [1, 2, 4, 32, 60, 60]
    assert failures_after(4, None, SETTINGS) == 5
    assert failures_after(4, 59.0, SETTINGS) == 5
    assert failures_after(4, 60.0, SETTINGS) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fetching", "preparing", "starting", "ready", "draining", "backoff", "stopping"]),
            st.integers(1, 3),
            st.floats(0, 100),
            st.sampled_from([None, 0, 1]),
        ),
        max_size=8,
    ),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_no_plan_breaks_the_rules(
    states: list[tuple[str, int, float, int | None]], low: int, high: int, generation: int
) -> None:
    known = [
        replica(f"r{number}", phase, generation=made_for, since=since, in_flight=in_flight)
        for number, (phase, made_for, since, in_flight) in enumerate(states)
    ]
    want = wanted(min(low, high), high, generation)
    plan = actions([want], known)
    by_id = {known_replica.id: known_replica for known_replica in known}
    starts = sum(isinstance(action, Start) for action in plan)
    if starts:
        surge = want.replicas_min + 1 if any(k.phase == "ready" and k.generation != generation for k in known) else 0
        assert len(known) + starts <= max(want.replicas_max, surge)
    touched = [action.replica_id for action in plan if not isinstance(action, Start)]
    assert len(touched) == len(set(touched))
    ready = sum(known_replica.phase == "ready" for known_replica in known)
    leaving = [by_id[action.replica_id] for action in plan if isinstance(action, (Drain, Stop))]
    serving_lost = sum(known_replica.phase == "ready" for known_replica in leaving)
    if serving_lost:
        assert ready - serving_lost >= want.replicas_min


class Fleet(RuleBasedStateMachine):
    """A region that does what reconcile says, while things fail and wishes change."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.want = Wanted("dep_1", 1, 1, 1)
        self.known: dict[str, Known] = {}
        self.ids = itertools.count()

    def put(self, known: Known, **changes: object) -> None:
        self.known[known.id] = msgspec.structs.replace(known, **changes)

    def take(self) -> bool:
        """One round of decisions, done at once. Returns whether there was any."""
        plan = reconcile([self.want], list(self.known.values()), self.now, SETTINGS)
        for action in plan.actions:
            if isinstance(action, Start):
                new = replica(f"r{next(self.ids)}", "starting", generation=action.generation, since=self.now)
                self.known[new.id] = new
            elif isinstance(action, Restart):
                self.put(self.known[action.replica_id], phase="starting", since=self.now)
            elif isinstance(action, Drain):
                self.put(self.known[action.replica_id], phase="draining", since=self.now, in_flight=0)
            else:
                del self.known[action.replica_id]
        return bool(plan.actions)

    @rule(low=st.integers(0, 3), more=st.integers(0, 2), is_new=st.booleans())
    def wish(self, low: int, more: int, is_new: bool) -> None:
        self.want = Wanted("dep_1", self.want.generation + is_new, low, max(1, low + more))

    @rule()
    def decide(self) -> None:
        before = [known for known in self.known.values() if known.phase == "ready"]
        started_from = len(self.known)
        self.take()
        after = [known for known in self.known.values() if known.phase == "ready"]
        if len(after) < len(before):
            assert len(after) >= self.want.replicas_min
        if len(self.known) > started_from:
            assert len(self.known) <= max(self.want.replicas_max, self.want.replicas_min + 1)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), phase=st.sampled_from(["ready", "backoff"]))
    def something_happens(self, data: st.DataObject, phase: str) -> None:
        known = data.draw(st.sampled_from(sorted(self.known.values(), key=lambda each: each.id)))
        if known.phase in ("starting", "ready"):
            self.put(known, phase=phase, since=self.now, retry_at=self.now + 1.0)

    @rule(seconds=st.floats(0.1, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def settles_once_nothing_fails(self) -> None:
        saved = (self.now, dict(self.known))
        for _ in range(60):
            self.take()
            for known in list(self.known.values()):
                if known.phase == "starting":
                    self.put(known, phase="ready", since=self.now)
            self.now += 2.0
        states = sorted((known.phase, known.generation) for known in self.known.values())
        assert states == [("ready", self.want.generation)] * self.want.replicas_min
        assert not self.take()
        self.now, self.known = saved


TestFleet = Fleet.TestCase
