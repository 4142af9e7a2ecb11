"""What holds of every decision, whatever is asked and whatever runs."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.model import Demand, Node, Running, Workload
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.compute.scheduler.packing.books import NodeBook
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.compute.scheduler.plan import Settings, decide
from cloudcrest.compute.scheduler.quotas import Quota, QuotaTree
from tests.unit.compute.clusters import carry_out, check, demand, node, used

OWNERS = ((), ("o1", "p1"), ("o1", "p2"), ("o2", "p3"))
QUOTAS = (
    Quota(("o1",), "a", 3_000, 6_000),
    Quota(("o1", "p1"), "a", 1_000, 3_000),
    Quota(("o2",), "a", 4_000),
    Quota(("o2",), "cpu", 4_000, 8_000),
)

nodes = st.lists(
    st.builds(
        node,
        st.just(""),
        st.sampled_from([0, 1, 2, 4]),
        kind=st.sampled_from("ab"),
        zone=st.sampled_from(["z1", "z2"]),
        rack=st.sampled_from(["r1", "r2"]),
        taints=st.sampled_from([(), (), ("lab",)]),
        is_schedulable=st.sampled_from([True, True, True, False]),
    ),
    min_size=1,
    max_size=5,
)
demands = st.builds(
    demand,
    st.sampled_from([0, 1, 2, 4]),
    cpu=st.sampled_from([0, 1_000, 16_000]),
    types=st.sampled_from([(), ("a",), ("a", "b")]),
) | st.builds(demand, st.just(1), st.sampled_from([250, 500, 700]))
workloads = st.lists(
    st.builds(
        Workload,
        st.just(""),
        demands,
        members=st.sampled_from([1, 1, 1, 2, 3]),
        owner=st.sampled_from(OWNERS),
        priority=st.integers(0, 2),
        is_spot=st.booleans(),
        together=st.sampled_from([None, None, "node", "rack", "zone"]),
        spread=st.sampled_from([None, None, "node", "zone"]),
        group=st.sampled_from(["", "g"]),
        tolerations=st.sampled_from([frozenset(), frozenset(("lab",))]),
        prefers=st.sampled_from(["packing", "cheapest"]),
        since=st.floats(0, 1_000),
    ),
    max_size=14,
)
limits = st.sampled_from([{}, {}, {"z1/r1": 1_700, "z2/r2": 1_100}])


def numbered(machines: Sequence[Node], asked: Sequence[Workload]) -> tuple[list[Node], list[Workload]]:
    return (
        [Node(**{field: getattr(each, field) for field in each.__struct_fields__} | {"id": f"n{index}"})
         for index, each in enumerate(machines)],
        [Workload(**{field: getattr(each, field) for field in each.__struct_fields__} | {"id": f"w{index:02}"})
         for index, each in enumerate(asked)],
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(nodes, workloads, limits, st.booleans(), st.data())
def test_every_decision_keeps_the_books(
    machines: list[Node], asked: list[Workload], rack_watts: dict[str, int], is_packing: bool, data: st.DataObject
) -> None:
    machines, asked = numbered(machines, asked)
    made = Cluster(PackingIndex() if is_packing else BestFit(), rack_watts)
    made.update(machines)
    waiting: list[Workload] = []
    ended = 0
    todo = list(asked)
    now = 0.0
    for _ in range(6):
        now += 400
        arriving = data.draw(st.integers(0, len(todo)))
        waiting, todo = [*waiting, *todo[:arriving]], todo[arriving:]
        before, running = used(made), dict(made.running)
        plan = decide(made, waiting, QUOTAS, now=now)
        assert plan == decide(made, waiting, QUOTAS, now=now)
        assert used(made) == before
        assert made.running == running
        # Each that waits is placed or refused, once; each that is stopped ran, for one who is told to wait for it.
        told = [*(each.workload_id for each in plan.placed), *(each.workload_id for each in plan.refused)]
        assert sorted(told) == sorted(each.id for each in waiting)
        assert {each.workload_id for each in plan.preempted} <= running.keys()
        for each in plan.preempted:
            assert not _is_equal(running[each.workload_id], next(one for one in waiting if one.id == each.by))
        waiting = carry_out(made, waiting, plan, now=now)
        check(made, QUOTAS)
        ends = data.draw(st.integers(0, len(made.running)))
        if ends:
            made.stop(sorted(made.running)[ends - 1])
            ended += 1
    assert len(made.running) + len(waiting) + len(todo) + ended == len(asked)


def _is_equal(running: Running, by: Workload) -> bool:
    """Whether something was stopped for what is no more important, and has no claim to its place."""
    other = running.workload
    if other.is_spot and not by.is_spot:
        return False
    return other.priority >= by.priority and (other.owner == by.owner or not by.owner or not other.owner)


@settings(deadline=None, max_examples=150)
@given(nodes, st.lists(demands, max_size=10), demands)
def test_what_fits_anywhere_is_not_refused(machines: list[Node], before: list[Demand], wanted: Demand) -> None:
    machines, _ = numbered(machines, [])
    made = Cluster(BestFit())
    made.update(machines)
    first = [Workload(f"b{index}", each, tolerations=frozenset(("lab",))) for index, each in enumerate(before)]
    carry_out(made, first, decide(made, first, now=0), now=0)
    plan = decide(made, [Workload("w", wanted)], now=0, settings=Settings(preempts=False))
    books = {each.id: NodeBook(each) for each in machines}
    for each in made.running.values():
        for spot in each.spots:
            books[spot.node_id].take(spot, each.workload.demand)
    fits = any(book.fits(wanted) and book.node.is_schedulable and not book.node.taints for book in books.values())
    assert bool(plan.placed) == fits


shares = st.builds(
    Quota,
    st.sampled_from([("o1",), ("o2",), ("o1", "p1"), ("o1", "p2"), ("o2", "p3")]),
    st.sampled_from(["a", "a", "b", "cpu"]),
    st.sampled_from([0, 1_000, 2_000, 4_000, 8_000]),
    st.sampled_from([None, None, 8_000]),
)


@settings(deadline=None, max_examples=100)
@given(nodes, workloads, st.lists(shares, max_size=8), limits, st.data())
def test_asking_again_converges(
    machines: list[Node], asked: list[Workload], quotas: list[Quota], rack_watts: dict[str, int], data: st.DataObject
) -> None:
    machines, asked = numbered(machines, asked)
    made = Cluster(BestFit(), rack_watts)
    made.update(machines)
    early = data.draw(st.integers(0, len(asked)))
    now = 0.0
    waiting: list[Workload] = []
    for arriving in (asked[:early], asked[early:]):
        waiting = [*waiting, *arriving]
        for _ in range(4 * len(asked) + 4):
            plan = decide(made, waiting, quotas, now=now)
            if not plan.placed and not plan.preempted:
                break
            waiting = carry_out(made, waiting, plan, now=now)
            now += 1
        else:
            raise AssertionError("it goes on for ever")


@settings(deadline=None, max_examples=60)
@given(nodes, st.integers(1, 8))
def test_a_group_is_spread_as_evenly_as_there_is_room(machines: list[Node], count: int) -> None:
    machines, _ = numbered(machines, [])
    made = Cluster(BestFit())
    made.update(machines)
    for number in range(count):
        replica = Workload(f"r{number}", demand(1), group="g", spread="zone", tolerations=frozenset(("lab",)))
        open_zones = {
            each.zone
            for each in machines
            if each.is_schedulable and any(left == 1_000 for left in made.packing.free(each.id).accelerators)
        }
        fewest = min((made.group_count("g", "zone", zone) for zone in open_zones), default=0)
        plan = decide(made, [replica], now=0)
        if not open_zones:
            assert plan.refused
            return
        (spot,) = plan.placed[0].spots
        zone = domain_of(made.nodes[spot.node_id], "zone")
        assert made.group_count("g", "zone", zone) == fewest
        carry_out(made, [replica], plan, now=0)


owners = st.sampled_from([owner for owner in OWNERS if owner])


@given(st.lists(st.tuples(owners, st.integers(1, 3_000)), max_size=12))
def test_what_is_counted_is_given_back(uses: list[tuple[tuple[str, ...], int]]) -> None:
    tree = QuotaTree(QUOTAS)
    for owner, milli in uses:
        tree.use(owner, {"a": milli})
    assert tree.used(("o1",), "a") == sum(milli for owner, milli in uses if owner[0] == "o1")
    for owner, milli in uses:
        tree.use(owner, {"a": -milli})
    assert all(tree.used(owner, "a") == 0 for owner in OWNERS)
