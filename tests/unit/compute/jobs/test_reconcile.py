"""What a region does with jobs, as a pure function: all or none, retries for failures alone, always an end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.compute.jobs.reconcile import (
    Begin,
    EndAttempt,
    Finish,
    Forget,
    GoAll,
    Known,
    KnownMember,
    Plan,
    StopAll,
    Submit,
    Wanted,
    backoff_seconds,
    reconcile,
)
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import EndKind

SETTINGS = RunSettings()
READY, RUNNING = KnownMember("ready"), KnownMember("running")
DONE = KnownMember("ended", end="exit", exit_code=0)
KINDS: list[EndKind] = [
    "exit",
    "signal",
    "out_of_memory",
    "prepare",
    "disk",
    "lost",
    "preempted",
    "cancelled",
    "time_limit",
    "budget",
]


def ended(kind: EndKind, exit_code: int | None = None) -> KnownMember:
    return KnownMember("ended", end=kind, exit_code=exit_code, message=f"by {kind}")


def step(known: Known | None, job: Wanted | None = None, now: float = 100.0) -> Plan:
    return reconcile([job or Wanted("job")], [] if known is None else [known], now, SETTINGS)


def attempt(*members: KnownMember, **more: object) -> Known:
    return Known("job", "attempt", 90.0, members=members, **more)  # type: ignore[arg-type]


def end_of(*members: KnownMember, retries: int = 0, **more: object) -> EndAttempt:
    (action,) = step(attempt(*members, **more), Wanted("job", retries=retries)).actions
    assert isinstance(action, EndAttempt)
    return action


def test_a_new_job_is_submitted_and_begins_when_it_has_its_place() -> None:
    assert step(None).actions == (Submit("job"),)
    assert step(Known("job", "queued", 0, is_offered=True)).actions == ()
    assert step(Known("job", "queued", 0, is_offered=True, is_placed=True)).actions == (Begin("job"),)
    assert step(Known("job", "queued", 0)).actions == (Submit("job"),)  # after a restart


def test_no_command_starts_before_every_member_is_ready() -> None:
    assert step(attempt(READY, KnownMember("preparing"))).actions == ()
    assert step(attempt(READY, READY)).actions == (GoAll("job"),)
    assert step(attempt(READY, READY, has_gone=True)).actions == ()


def test_one_members_death_ends_the_attempt_and_its_end_does_not() -> None:
    (action,) = step(attempt(RUNNING, ended("exit", 1), has_gone=True)).actions
    assert isinstance(action, StopAll)
    assert action.why == "gang"
    assert step(attempt(RUNNING, DONE, has_gone=True)).actions == ()
    stopping = KnownMember("running", is_stopping=True)
    assert step(attempt(stopping, ended("exit", 1), has_gone=True)).actions == ()


def test_success_is_every_members() -> None:
    assert end_of(DONE, DONE).state == "succeeded"
    assert end_of(DONE, ended("gang")).state == "queued"
    assert end_of(ended("exit", 1), ended("gang")).cause == "exit"


def test_only_failures_use_up_retries() -> None:
    assert end_of(ended("exit", 1)).state == "failed"
    again = end_of(ended("exit", 1), retries=1)
    assert (again.state, again.failures, again.retry_at) == ("queued", 1, 101.0)
    assert end_of(ended("exit", 1), retries=1, failures=1).state == "failed"
    lost = end_of(ended("lost"))
    assert (lost.state, lost.failures, lost.losses) == ("queued", 0, 1)
    assert end_of(ended("lost"), losses=SETTINGS.losses_most).state == "failed"
    preempted = end_of(ended("preempted"), ended("gang"), failures=3, losses=2)
    assert (preempted.state, preempted.failures, preempted.losses, preempted.retry_at) == ("preempted", 3, 2, 100.0)


@pytest.mark.parametrize(
    ("kind", "state"), [("cancelled", "cancelled"), ("time_limit", "timed_out"), ("budget", "failed")]
)
def test_some_ends_are_final_whatever_the_retries(kind: EndKind, state: str) -> None:
    assert end_of(ended(kind), retries=9).state == state
    assert end_of(ended(kind), retries=9).retry_at is None


def test_a_cancelled_job_ends_from_wherever_it_is() -> None:
    cancelled = Wanted("job", is_cancelled=True)
    for known in (None, Known("job", "queued", 0), Known("job", "backoff", 0, retry_at=500)):
        (action,) = step(known, cancelled).actions
        assert isinstance(action, Finish)
        assert action.state == "cancelled"
    (stop,) = step(attempt(RUNNING, has_gone=True), cancelled).actions
    assert isinstance(stop, StopAll)
    assert stop.why == "cancelled"
    # One that was done before it heard of it has succeeded.
    (end,) = step(attempt(DONE), cancelled).actions
    assert isinstance(end, EndAttempt)
    assert end.state == "succeeded"


def test_backoff_doubles_up_to_the_most() -> None:
    waits = [backoff_seconds(times, SETTINGS) for times in range(1, 40)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == SETTINGS.backoff_most_seconds
    plan = step(Known("job", "backoff", 0, retry_at=130))
    assert plan == Plan((), 130)
    assert step(Known("job", "backoff", 0, retry_at=130), now=130).actions == (Submit("job"),)


def test_the_time_of_all_attempts_counts() -> None:
    (action,) = step(Known("job", "queued", 0, ran_seconds=60), Wanted("job", time_limit_seconds=60)).actions
    assert isinstance(action, Finish)
    assert action.state == "timed_out"


def test_what_does_not_become_ready_is_given_up() -> None:
    late = 90 + SETTINGS.prepare_most_seconds
    (action,) = step(attempt(READY, KnownMember("preparing")), now=late).actions
    assert isinstance(action, StopAll)
    assert action.why == "prepare"


def test_a_job_that_is_wanted_no_longer_is_ended_and_forgotten() -> None:
    def without_document(known: Known) -> Plan:
        return reconcile([], [known], 100, SETTINGS)

    assert without_document(Known("job", "finished", 0)).actions == (Forget("job"),)
    assert without_document(Known("job", "queued", 0)).actions == (Forget("job"),)
    (stop,) = without_document(attempt(RUNNING, has_gone=True)).actions
    assert isinstance(stop, StopAll)
    (end,) = without_document(attempt(ended("cancelled"))).actions
    assert isinstance(end, EndAttempt)
    assert end.state == "cancelled"


class World:
    """A region as the controller would make it, without time: does what is decided, and members do what they like."""

    def __init__(self, members: int, retries: int, time_limit: float | None) -> None:
        self.job = Wanted("job", retries=retries, time_limit_seconds=time_limit)
        self.size = members
        self.known: Known | None = None
        self.now = 0.0
        self.attempts = 0
        self.final: str | None = None

    def decide(self) -> None:
        plan = reconcile([self.job], [self.known] if self.known else [], self.now, SETTINGS)
        for action in plan.actions:
            self.act(action)
        if plan.look_again_at is not None:
            assert plan.look_again_at > self.now

    def change(self, **changes: object) -> None:
        assert self.known is not None
        fields = {name: getattr(self.known, name) for name in self.known.__struct_fields__}
        self.known = Known(**{**fields, **changes})

    def act(self, action: object) -> None:
        assert self.final is None
        if isinstance(action, Submit):
            if self.known is None:
                self.known = Known("job", "queued", self.now)
            self.change(phase="queued", is_offered=True)
        elif isinstance(action, Begin):
            self.attempts += 1
            members = tuple(KnownMember("starting") for _ in range(self.size))
            self.change(phase="attempt", members=members, has_gone=False, is_placed=False, is_offered=False)
        elif isinstance(action, GoAll):
            assert self.known is not None
            assert all(member.phase == "ready" for member in self.known.members)
            self.change(has_gone=True, members=(RUNNING,) * self.size)
        elif isinstance(action, StopAll):
            assert self.known is not None
            self.change(
                members=tuple(
                    member if member.phase == "ended" else KnownMember("ended", end=action.why, message=action.message)
                    for member in self.known.members
                )
            )
        elif isinstance(action, EndAttempt):
            assert self.known is not None
            assert all(member.phase == "ended" for member in self.known.members)
            assert action.failures <= self.job.retries + 1
            counts = {"failures": action.failures, "losses": action.losses, "preempted": "", "members": ()}
            if action.retry_at is None:
                self.final = action.state
                self.change(phase="finished", **counts)
            else:
                self.change(phase="backoff", retry_at=action.retry_at, **counts)
        elif isinstance(action, Finish):
            self.final = action.state


@settings(max_examples=200)
@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(KINDS), st.integers(0, 1)), max_size=40),
)
def test_whatever_happens_gangs_are_whole_and_a_cancelled_job_ends(
    members: int, retries: int, happenings: list[tuple[int, int, EndKind, int]]
) -> None:
    world = World(members, retries, None)
    for what, which, kind, code in happenings:
        world.decide()
        if world.final is not None:
            break
        assert world.known is not None
        world.now += 1
        if what == 0:
            world.change(is_placed=world.known.phase == "queued")
        elif what == 1 and world.known.phase == "attempt":
            ready = tuple(READY if each.phase == "starting" else each for each in world.known.members)
            world.change(members=ready)
        elif what == 2 and world.known.phase == "attempt":
            changed = list(world.known.members)
            changed[which % members] = ended(kind, code if kind == "exit" else None)
            world.change(members=tuple(changed))
        elif what == 3 and world.known.phase == "attempt":
            world.change(preempted="another needs its place")
        elif what == 4:
            world.now += 1000
    world.job = Wanted("job", retries=retries, is_cancelled=True)
    for _ in range(4):
        if world.final is None:
            world.decide()
    assert world.final in ("succeeded", "failed", "cancelled", "timed_out")
    assert world.known is None or world.known.failures <= retries + 1


def test_forget_is_not_said_of_what_is_wanted() -> None:
    assert step(Known("job", "finished", 0)).actions == ()
