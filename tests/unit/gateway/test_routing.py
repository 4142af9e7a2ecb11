"""The choice of a replica, and what a router learns from requests."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.routing.books import Member
from cloudcrest.gateway.routing.decision import Fleet, choose, least_of, work_off
from cloudcrest.gateway.routing.health import HealthRules
from cloudcrest.gateway.routing.router import Ask, Router, Ticket

PROMPT = list(range(100, 120))


def cost(new_tokens: int, cached_tokens: int) -> float:
    return new_tokens / 1_000


def make(count: int, *, slots: int = 4, orders_queue: bool = False, rules: HealthRules | None = None) -> Router:
    router = Router(cost, orders_queue=orders_queue, rules=rules)
    router.set_members([Member(f"r{number}", slots) for number in range(count)], 0.0)
    return router


def go(router: Router, now: float, blocks: list[int] | None = None, tokens: int = 1_000) -> Ticket:
    ticket = router.choose(Ask(tokens, blocks or [], 50), now)
    assert ticket is not None
    router.send(ticket, now)
    return ticket


def finish(router: Router, ticket: Ticket, now: float) -> None:
    router.first_token(ticket, now)
    router.end(ticket, now)


costs = st.floats(0, 100)


@given(data=st.data(), count=st.integers(1, 12), orders=st.booleans())
def test_only_the_eligible_are_chosen_and_always_one_of_them(data: st.DataObject, count: int, orders: bool) -> None:
    def column() -> list[float]:
        return data.draw(st.lists(costs, min_size=count, max_size=count))

    fleet = Fleet(column(), column(), column(), column(), [[] for _ in range(count)], orders_queue=orders)
    eligible = data.draw(st.integers(1, (1 << count) - 1))
    chosen = choose(fleet, column(), now=50.0, turn=data.draw(st.integers(0, 99)), eligible=eligible)
    assert eligible >> chosen & 1


@given(
    excluded=st.sets(st.integers(0, 5)),
    avoided=st.sets(st.integers(0, 5)),
    failing=st.sets(st.integers(0, 5), max_size=3),
    load=st.lists(st.integers(0, 5), max_size=20),
)
def test_no_excluded_or_ejected_replica_while_another_is_left(
    excluded: set[int], avoided: set[int], failing: set[int], load: list[int]
) -> None:
    router = make(6)
    names = [f"r{number}" for number in range(6)]
    for place in load:
        ticket = router.choose(Ask(500, PROMPT, 50), 1.0, [name for name in names if name != f"r{place}"])
        assert ticket is not None
        assert ticket.name == f"r{place}"
        router.send(ticket, 1.0)
    for place in failing:
        for _ in range(HealthRules().failures_in_a_row):
            ticket = router.choose(Ask(500, [], 50), 2.0, [name for name in names if name != f"r{place}"])
            assert ticket is not None
            router.send(ticket, 2.0)
            router.end(ticket, 2.0, is_failure=True)
    chosen = router.choose(Ask(500, PROMPT, 50), 3.0, [f"r{n}" for n in excluded], [f"r{n}" for n in avoided])
    left = set(range(6)) - excluded
    if not left:
        assert chosen is None
        return
    assert chosen is not None
    assert chosen.index in (left - avoided - failing or left)


@given(costs=st.lists(st.integers(0, 3).map(float), min_size=1), turn=st.integers(0, 50))
def test_of_the_least_the_next_in_turn_is_taken(costs: list[float], turn: int) -> None:
    count = len(costs)
    in_turn = [(turn + number) % count for number in range(count)]
    assert least_of(costs, turn) == next(place for place in in_turn if costs[place] == min(costs))


def test_ties_rotate() -> None:
    router = make(3)
    picked = [router.choose(Ask(10, [], 50), 0.0) for _ in range(9)]
    assert Counter(ticket.index for ticket in picked if ticket) == {0: 3, 1: 3, 2: 3}


def test_a_conversation_returns_to_its_replica_until_that_has_too_much_to_do() -> None:
    router = make(4)
    first = go(router, 0.0, PROMPT)
    finish(router, first, 1.0)
    assert all(router.choose(Ask(1_000, PROMPT, 50), 10.0).index == first.index for _ in range(8))  # type: ignore[union-attr]
    for number in range(6):
        chosen = router.choose(Ask(5_000, [], 50), 10.0, [f"r{n}" for n in range(4) if n != first.index])
        assert chosen is not None, number
        router.send(chosen, 10.0)
    assert go(router, 10.0, PROMPT).index != first.index


def test_work_is_spread_and_drains_with_time() -> None:
    router = make(3)
    assert {go(router, 0.0).index for _ in range(3)} == {0, 1, 2}
    assert max(router.fleet.queue_ends_at) <= 1.1


def test_a_slow_replica_is_found_out_and_used_less() -> None:
    router = make(2, rules=HealthRules(slow_replicas_min=99))
    now, counts = 0.0, Counter[int]()
    for _ in range(400):
        now += 0.6
        ticket = go(router, now)
        counts[ticket.index] += 1
        finish(router, ticket, now + (0.5 if ticket.index else 5.0))
    assert counts[1] > 5 * counts[0]


def test_replicas_that_were_not_used_yet_count_at_the_pace_of_the_others() -> None:
    router = make(4)
    counts = Counter[int]()
    for number in range(200):
        ticket = go(router, float(number))
        counts[ticket.index] += 1
        finish(router, ticket, number + 0.3)
    assert min(counts[place] for place in range(4)) > 30


def test_one_that_lags_far_behind_is_ejected_and_comes_back() -> None:
    rules = HealthRules(slow_samples=3)
    router = make(4, rules=rules)
    now = 0.0
    for number in range(60):
        now = float(number)
        ticket = router.choose(Ask(1_000, [], 50), now, [f"r{n}" for n in range(4) if n != number % 4])
        assert ticket is not None
        router.send(ticket, now)
        finish(router, ticket, now + (0.01 if number % 4 else 0.9))
    chosen = {ticket.index for ticket in (router.choose(Ask(1_000, [], 50), now) for _ in range(20)) if ticket}
    assert 0 not in chosen
    later = now + rules.ejection_seconds + 1
    alone = router.choose(Ask(1_000, [], 50), later, ["r1", "r2", "r3"])
    assert alone is not None


def test_a_new_replica_is_not_flooded_and_takes_its_share_when_warm() -> None:
    router = make(3)
    for number in range(30):
        finish(router, go(router, number * 1.0), number + 0.9)
    router.set_members([Member(f"r{number}", 4) for number in range(4)], 30.0)
    assert all(go(router, 30.0).name != "r3" for _ in range(3))
    warm = [go(router, 100.0).name for _ in range(8)]
    assert 1 <= warm.count("r3") <= 4


def test_a_place_is_used_again_without_its_predecessors_memory() -> None:
    router = make(2)
    old = go(router, 0.0, PROMPT)
    router.set_members([Member("new", 4), Member(f"r{1 - old.index}", 4)], 1.0)
    router.first_token(old, 2.0)
    router.end(old, 2.0)
    assert router.place("new") == old.index
    assert router.index.match(PROMPT, 3) == []
    assert router.fleet.queue_ends_at[old.index] == 0.0


def test_what_ends_at_one_that_was_gone_for_a_while_does_not_count() -> None:
    router = Router(cost, crowding_seconds=1.0)
    members = [Member("r0", 4), Member("r1", 4)]
    router.set_members(members, 0.0)
    old = go(router, 0.0)
    router.set_members([members[1 - old.index]], 1.0)
    router.set_members(members, 2.0)
    router.end(old, 3.0)
    assert router.place(old.name) == old.index
    assert router.fleet.slot_wait == [0.0, 0.0]


def test_requests_beyond_the_slots_wait_for_one() -> None:
    router = make(2, slots=1)
    for number in range(40):
        ticket = go(router, number * 10.0, tokens=100)
        router.first_token(ticket, number * 10.0 + 0.1)
        router.end(ticket, number * 10.0 + 8.0)
    busy = go(router, 1_000.0, PROMPT, tokens=100)
    router.first_token(busy, 1_000.1)
    assert go(router, 1_001.0, PROMPT, tokens=100).index != busy.index


def test_an_ordered_queue_is_worked_off_from_the_least_rank() -> None:
    waiting = [[5.0, 5.0, 0.0], [2.0, 2.0, 0.0]]
    work_off(waiting, 1.0, 3.0)
    assert waiting == [[4.0, 4.0, 3.0], [0.0, 0.0, 3.0]]
    router = make(2, orders_queue=True)
    first = go(router, 0.0, tokens=10_000)
    assert go(router, 0.0, tokens=9_000).index != first.index
    finish(router, first, 10.0)
    assert router.fleet.waiting[first.index] == []


def test_what_was_assigned_long_ago_is_forgotten() -> None:
    router = make(2)
    finish(router, go(router, 0.0, tokens=50_000), 50.0)
    assert max(router.fleet.assigned) > 0
    router.choose(Ask(10, [], 50), 10_000.0)
    assert router.fleet.utilization < 1e-9


def test_the_index_of_all_replicas_together_is_bounded() -> None:
    router = Router(cost, max_blocks_per_replica=100, max_blocks=120)
    router.set_members([Member(f"r{number}", 4) for number in range(6)], 0.0)
    for number in range(300):
        finish(router, go(router, float(number), list(range(number * 50, number * 50 + 30))), number + 0.5)
        assert len(router.index) <= 120
    assert len(router.index) == 120
