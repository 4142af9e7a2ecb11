"""Who waits for room at a limit: in order, bounded, and gone when they go."""

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway import waiting
from cloudcrest.gateway.admit import Grant, OverLimit, Scope, admit
from cloudcrest.gateway.request import Request, Responder
from cloudcrest.gateway.waiting import Bounds, Waiter, WaitingRoom, asked_wait_seconds, wait_seconds
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, LimitExceeded, NotFound


class Worker:
    """A waiting room over scopes of one worker, in a time that the test moves."""

    def __init__(self, **scopes: Limits) -> None:
        self.now = 0.0
        self.scopes = {name: Scope("key", name, limits, 0.0) for name, limits in scopes.items()}
        self.outcomes: Counter[str] = Counter()
        self.room = WaitingRoom(lambda: self.now, self.outcomes, self._schedule)
        self.admitted: list[str] = []
        self.grants: dict[str, Grant] = {}
        self.errors: dict[str, CloudcrestError] = {}
        self.requests: dict[str, Request] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def _schedule(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), call))

    def begin(self, name: str, *scopes: str) -> Responder:
        held = [self.scopes[scope] for scope in scopes]
        self.room.check(held)
        grant = self.grants[name] = admit(held, 1, self.now)
        grant.freed = self.room.freed
        self.admitted.append(name)
        return cast(Responder, SimpleNamespace())

    def ask(self, name: str, *scopes: str, seconds: float = 10.0, organization: str = "org_1") -> Waiter | None:
        """None: it was admitted at once."""
        request = self.requests[name] = Request(b"POST", b"/", "1.1", [], True)
        try:
            self.begin(name, *scopes)
        except OverLimit as error:
            waiter = Waiter(
                self.room,
                cast(Any, None),
                request,
                organization_id=organization,
                body_bytes=100,
                begin=lambda: self.begin(name, *scopes),
                fail=lambda error: self.errors.update({name: error}),
                error=error,
                head=b"x-request-id: 1\r\n",
            )
            self.room.enter(waiter, seconds)
            return waiter
        return None

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, call = heapq.heappop(self._timers)
            call()
        self.now = until


def test_they_go_in_as_they_came_and_nobody_overtakes() -> None:
    worker = Worker(one=Limits(concurrent_requests=1))
    for name in ("a", "b", "c"):
        worker.ask(name, "one")
    worker.run(0.5)
    assert worker.admitted == ["a"]
    worker.grants["a"].settle(1)
    with pytest.raises(OverLimit, match="others wait for room"):  # it does not wait, so it has no right to the place
        worker.begin("d", "one")
    worker.run(0.005)
    assert worker.admitted == ["a", "b"]
    worker.grants["b"].settle(1)
    worker.run(0.005)
    assert worker.admitted == ["a", "b", "c"]
    assert worker.outcomes == {"admitted": 2}
    assert b"x-cloudcrest-waited: 0.506\r\n" in worker.requests["c"].extra_head
    worker.grants["c"].settle(1)
    assert worker.ask("d", "one") is None


def test_a_rate_lets_them_in_when_it_is_time() -> None:
    worker = Worker(one=Limits(requests_per_minute=60))
    for number in range(60):
        worker.ask(str(number), "one")
    assert worker.ask("late", "one") is not None
    worker.run(0.9)
    assert "late" not in worker.admitted
    worker.run(0.2)
    assert worker.admitted[-1] == "late"


def test_who_waits_at_one_limit_does_not_hold_up_another() -> None:
    worker = Worker(full=Limits(concurrent_requests=1), free=Limits(concurrent_requests=9), all=Limits())
    worker.ask("a", "full", "all")
    assert worker.ask("b", "full", "all") is not None
    assert worker.ask("c", "free", "all") is None


def test_after_its_time_it_is_refused_with_what_it_waited_for() -> None:
    worker = Worker(one=Limits(concurrent_requests=1, requests_per_minute=60))
    worker.ask("a", "one")
    worker.ask("b", "one", seconds=2)
    worker.run(3)
    assert worker.errors["b"].code == "rate_limit_exceeded"
    assert "1 concurrent requests" in worker.errors["b"].message
    head = worker.requests["b"].extra_head.decode()
    assert head.startswith("x-request-id: 1\r\nx-cloudcrest-waited: 2.0")
    assert head.count("x-ratelimit-limit-requests: 60\r\n") == 1
    assert worker.outcomes == {"refused": 1}


def test_a_client_that_goes_leaves_its_place() -> None:
    worker = Worker(one=Limits(concurrent_requests=1))
    worker.ask("a", "one")
    gone = worker.ask("b", "one")
    worker.ask("c", "one")
    assert gone is not None
    gone.client_gone()
    worker.grants["a"].settle(1)
    worker.run(0.01)
    assert worker.admitted == ["a", "c"]
    assert worker.outcomes == {"gone": 1, "admitted": 1}


def test_another_error_than_the_limits_ends_the_wait() -> None:
    worker = Worker(one=Limits(concurrent_requests=1))
    worker.ask("a", "one")
    worker.ask("b", "one")

    def model_gone(*_: object) -> Responder:
        raise NotFound("there is no model")

    worker.begin = cast(Any, model_gone)  # type: ignore[method-assign]
    worker.grants["a"].settle(1)
    worker.run(0.1)
    assert isinstance(worker.errors["b"], NotFound)
    assert len(worker.room) == 0


def test_the_room_is_bounded_by_worker_and_by_organization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WORKER_BOUNDS", Bounds(5, 450))
    monkeypatch.setattr(waiting, "ORGANIZATION_BOUNDS", Bounds(2, 1000))
    worker = Worker(one=Limits(concurrent_requests=1))
    worker.ask("a", "one")
    waiters = [worker.ask(str(number), "one", organization="org_1") for number in range(2)]
    with pytest.raises(LimitExceeded, match="too many requests wait already") as caught:
        worker.ask("x", "one", organization="org_1")
    assert (caught.value.code, caught.value.retry_after_seconds) == ("rate_limit_exceeded", 1.0)
    for number in range(2):
        worker.ask(f"other {number}", "one", organization="org_2")
    with pytest.raises(LimitExceeded):  # 500 bytes of bodies
        worker.ask("y", "one", organization="org_3")
    assert waiters[0] is not None
    waiters[0].client_gone()
    assert worker.ask("x", "one", organization="org_1") is not None


def test_a_worker_that_stops_lets_nobody_wait() -> None:
    worker = Worker(one=Limits(concurrent_requests=1))
    worker.ask("a", "one")
    worker.ask("b", "one")
    worker.room.close()
    assert worker.errors["b"].status == 503
    with pytest.raises(LimitExceeded):
        worker.ask("c", "one")


def test_what_the_client_says_while_it_waits_reaches_who_answers() -> None:
    worker = Worker(one=Limits(concurrent_requests=1))
    worker.ask("a", "one")
    waiter = worker.ask("b", "one")
    assert waiter is not None
    said: list[str] = []
    answering = SimpleNamespace(
        **{name: lambda name=name: said.append(name) for name in ("client_paused", "client_resumed", "client_gone")}
    )
    worker.begin = lambda *_: cast(Responder, answering)  # type: ignore[method-assign]
    waiter.client_paused()
    worker.grants["a"].settle(1)
    worker.run(0.1)
    waiter.client_resumed()
    waiter.client_gone()
    assert said == ["client_paused", "client_resumed", "client_gone"]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("ask", "end", "go", "wait")), st.integers(0, 5), st.booleans()), max_size=80
    )
)
def test_each_limit_is_held_and_served_in_order(steps: list[tuple[str, int, bool]]) -> None:
    worker = Worker(
        one=Limits(concurrent_requests=1), two=Limits(concurrent_requests=2), both=Limits(concurrent_requests=2)
    )
    asked: dict[str, list[str]] = {"one": [], "two": []}
    running: list[str] = []
    waiters: dict[str, Waiter] = {}
    for number, (kind, which, first) in enumerate(steps):
        name = f"{number}"
        if kind == "ask":
            scope = "one" if first else "two"
            waiter = worker.ask(name, scope, "both", seconds=1e6)
            asked[scope].append(name)
            if waiter is not None:
                waiters[name] = waiter
        elif kind == "end" and running:
            worker.grants[running[which % len(running)]].settle(1)
            worker.admitted.remove(running[which % len(running)])
            asked = {scope: [n for n in names if n != running[which % len(running)]] for scope, names in asked.items()}
        elif kind == "go" and waiters:
            gone = sorted(waiters)[which % len(waiters)]
            waiters.pop(gone).client_gone()
            asked = {scope: [n for n in names if n != gone] for scope, names in asked.items()}
        else:
            worker.run(0.2)
        waiters = {name: waiter for name, waiter in waiters.items() if name not in worker.admitted}
        running = list(worker.admitted)
        assert len(worker.room) == len(waiters)
        assert worker.scopes["one"].concurrent <= 1
        assert worker.scopes["both"].concurrent <= 2
        for names in asked.values():  # of each limit, those who are in came before those who wait
            inside = [name in worker.admitted for name in names]
            assert inside == sorted(inside, reverse=True)
    for name in running:
        worker.grants[name].settle(1)
    worker.run(1)
    assert bool(waiters) == bool(set(worker.admitted) - set(running))


def test_how_long_it_waits_is_what_it_says_else_what_its_narrowest_scope_does() -> None:
    request = Request(b"POST", b"/", "1.1", [], True)
    key = Scope("key", "key_1", Limits(requests_per_minute=1), 0.0)
    project = Scope("project", "proj_1", Limits(max_wait_seconds=5), 0.0)
    organization = Scope("organization", "org_1", Limits(max_wait_seconds=90), 0.0)
    assert asked_wait_seconds(request) is None
    assert wait_seconds(None, [key]) == 0
    assert wait_seconds(None, [key, project, organization]) == 5
    assert wait_seconds(None, [organization]) == waiting.MAX_WAIT_SECONDS
    for written, seconds in ((b"2.5", 2.5), (b"0", 0), (b"3600", waiting.MAX_WAIT_SECONDS)):
        request.max_wait = written
        assert wait_seconds(asked_wait_seconds(request), [project]) == seconds
    for written in (b"soon", b"-1", b"nan", b"inf", b""):
        request.max_wait = written
        with pytest.raises(InvalidInput, match="x-cloudcrest-max-wait"):
            asked_wait_seconds(request)
