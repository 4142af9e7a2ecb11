"""The live gateway's side of routing: what it asks of the router and tells it."""

import pytest

from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.route import Balancer, Trip


def upstream(name: str) -> Upstream:
    return Upstream(f"http://{name}", slots=4, name=name)


def body(text: str) -> bytes:
    return f'{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}'.encode()


def make(replicas: list[Upstream]) -> Balancer:
    balancer = Balancer(0.0)
    balancer.set_replicas(replicas, 0.0)
    return balancer


def pick(balancer: Balancer, data: bytes, now: float, excluded: list[Upstream] | None = None) -> Trip:
    trip = balancer.pick(data, now, excluded or [])
    assert trip is not None
    return trip


def test_one_replica_needs_no_choice_and_none_is_none() -> None:
    only = upstream("a")
    balancer = make([only])
    trip = pick(balancer, body("hi"), 0.0)
    trip.begin(0.0, is_stream=True)
    trip.first_token(1.0)
    trip.end(2.0)
    assert balancer.pick(body("hi"), 0.0, [only]) is None
    assert make([]).pick(body("hi"), 0.0) is None


def test_a_long_prompt_returns_to_where_it_was() -> None:
    replicas = [upstream("a"), upstream("b"), upstream("c")]
    balancer = make(replicas)
    first = pick(balancer, body("x" * 40_000), 0.0)
    first.begin(0.0, is_stream=True)
    first.first_token(1.0)
    first.end(2.0)
    for number in range(6):
        again = pick(balancer, body("x" * 40_000 + "y" * 3_000), 10.0 + number)
        assert again.replica is first.replica


def test_a_paused_replica_is_used_only_where_there_is_no_other() -> None:
    replicas = [upstream("a"), upstream("b")]
    replicas[0].paused_until_seconds = 5.0
    balancer = make(replicas)
    assert all(pick(balancer, body("hi"), 1.0).replica.name == "b" for _ in range(4))
    assert pick(balancer, body("hi"), 1.0, [replicas[1]]).replica.name == "a"
    assert balancer.pick(body("hi"), 1.0, replicas) is None
    replicas[1].paused_until_seconds = 5.0
    assert pick(balancer, body("hi"), 1.0).replica in replicas


@pytest.mark.parametrize("is_stream", [True, False])
def test_requests_under_way_are_spread_and_leave_nothing_behind(is_stream: bool) -> None:
    replicas = [upstream("a"), upstream("b"), upstream("c")]
    balancer = make(replicas)
    trips = []
    for _ in range(9):
        trip = pick(balancer, body("hi"), 1.0)
        trip.begin(1.0, is_stream=is_stream)
        trips.append(trip)
    names = [trip.replica.name for trip in trips]
    assert {name: names.count(name) for name in set(names)} == {"a": 3, "b": 3, "c": 3}
    for trip in trips:
        trip.end(2.0)
        trip.end(2.0)
    place = balancer.router.place("a")
    assert place is not None
    assert balancer.router.fleet.slot_wait[place] == 0.0


def test_a_replica_that_fails_again_and_again_is_left_out() -> None:
    replicas = [upstream("a"), upstream("b")]
    balancer = make(replicas)
    for _ in range(5):
        trip = pick(balancer, body("hi"), 1.0, [replicas[1]])
        trip.begin(1.0, is_stream=True)
        trip.end(1.0, is_failure=True)
    assert all(pick(balancer, body("hi"), 2.0).replica.name == "b" for _ in range(8))
