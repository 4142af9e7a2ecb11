"""The scheduler's decision, case by case."""

import pytest

from cloudcrest.compute.scheduler.model import Placed, Spot, Workload
from cloudcrest.compute.scheduler.plan import Settings, decide
from cloudcrest.compute.scheduler.quotas import Quota
from tests.unit.compute.clusters import carry_out, cluster, demand, node, running, used


def test_a_workload_gets_a_place_and_the_cluster_is_left_as_it_was() -> None:
    made = cluster(node("n1"), node("n2", 8))
    before = used(made)
    plan = decide(made, [Workload("w", demand(2))], now=0)
    assert plan.placed == (Placed("w", (Spot("n1", (0, 1)),)),)
    assert used(made) == before


def test_a_gang_gets_all_its_places_or_none() -> None:
    made = cluster(node("n1"), node("n2"), node("n3"))
    plan = decide(made, [Workload("w", demand(4), members=3)], now=0)
    assert {spot.node_id for spot in plan.placed[0].spots} == {"n1", "n2", "n3"}
    plan = decide(made, [Workload("w", demand(4), members=4), Workload("x", demand(1))], now=0)
    assert [each.workload_id for each in plan.placed] == ["x"]
    assert (plan.refused[0].code, plan.refused[0].reason) == (
        "impossible",
        "needs room for 4 members at once; all nodes together would hold 3, were they empty",
    )
    made.start(running(Workload("r", demand(1)), Spot("n1", (0,))))
    plan = decide(made, [Workload("w", demand(4), members=3)], now=0)
    assert (plan.refused[0].code, plan.refused[0].reason) == (
        "capacity",
        "needs room for 3 members at once; there is room for 2",
    )


@pytest.mark.parametrize(
    ("milli", "members", "fits"), [(250, 48, True), (250, 49, False), (600, 12, True), (600, 13, False)]
)
def test_members_that_take_shares_are_counted_by_shares(milli: int, members: int, fits: bool) -> None:
    made = cluster(node("n1"), node("n2"), node("n3"))
    shared = Workload("w", demand(1, milli=milli, cpu=1), members=members)
    plan = decide(made, [shared], now=0)
    assert bool(plan.placed) is fits
    assert fits or plan.refused[0].code == "impossible"


@pytest.mark.parametrize(
    ("wanted", "code", "reason"),
    [
        (demand(2, types=("a",)), "capacity", "needs 2 × a free on one node; best node has 1"),
        (demand(1, 500, types=("a",)), None, ""),
        (demand(16), "impossible", "needs 16 accelerators on one node; the largest has 4"),
        (demand(1, types=("x",)), "impossible", "no node has accelerators of x; there are a, b"),
        (demand(1, cpu=64_000), "impossible", "needs 64 CPUs and 1 GiB on one node; the largest has 32 CPUs and "
         "128 GiB"),
        (demand(4, cpu=32_000, types=("b",)), "capacity", "needs 32 CPUs and 1 GiB free on one node beside 4 × b; "
         "best node has 31 CPUs and 127 GiB"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_needed_and_what_there_is(wanted: object, code: str | None, reason: str) -> None:
    made = cluster(node("n1"), node("n2", kind="b"))
    made.start(running(Workload("r", demand(3)), Spot("n1", (0, 1, 2))))
    made.start(running(Workload("c", demand(0)), Spot("n2")))
    plan = decide(made, [Workload("w", wanted)], now=0)  # type: ignore[arg-type]
    if code is None:
        assert plan.placed
    else:
        assert (plan.refused[0].code, plan.refused[0].reason) == (code, reason)


def test_labels_taints_zones_and_cordons_keep_out() -> None:
    made = cluster(
        node("n1", taints=["lab"]),
        node("n2", zone="z2", labels={"disk": "nvme"}),
        node("n3", is_schedulable=False),
    )

    def where(workload: Workload) -> str:
        plan = decide(made, [workload], now=0)
        return plan.placed[0].spots[0].node_id if plan.placed else plan.refused[0].reason

    assert where(Workload("w", demand(), zones=frozenset(("z2",)))) == "n2"
    assert where(Workload("w", demand(), tolerations=frozenset(("lab",)), zones=frozenset(("z1",)))) == "n1"
    assert where(Workload("w", demand(), labels={"disk": "nvme"})) == "n2"
    assert where(Workload("w", demand(), labels={"disk": "tape"})) == "no node has the labels disk=tape"
    assert where(Workload("w", demand(), zones=frozenset(("z9",)))) == "no node is in z9; there are nodes in z1, z2"
    assert where(Workload("w", demand(), zones=frozenset(("z1",)))).startswith("every node that would do is cordoned")
    only = cluster(node("n1", taints=["lab"]))
    plan = decide(only, [Workload("w", demand())], now=0)
    assert plan.refused[0].reason.startswith("the nodes that would do are kept free by the taints lab")


def test_the_cheapest_type_that_will_do_or_the_first_of_an_order() -> None:
    made = cluster(
        node("n1", kind="h800", price=3.0), node("n2", kind="910b", price=2.0), node("n3", kind="t4", price=0.1)
    )
    either = demand(1, types=("h800", "910b"))
    assert decide(made, [Workload("w", either, prefers="cheapest")], now=0).placed[0].spots[0].node_id == "n2"
    ordered = Workload("w", either, prefers="order", type_order=("h800", "910b"))
    assert decide(made, [ordered], now=0).placed[0].spots[0].node_id == "n1"
    made.start(running(Workload("r", demand(4)), Spot("n2", (0, 1, 2, 3))))
    assert decide(made, [Workload("w", either, prefers="cheapest")], now=0).placed[0].spots[0].node_id == "n1"


def test_together_in_one_rack_and_spread_over_zones() -> None:
    made = cluster(
        *(node(f"{zone}{rack}{n}", zone=zone, rack=rack) for zone in "xy" for rack in "12" for n in range(2))
    )
    plan = decide(made, [Workload("w", demand(4), members=2, together="rack")], now=0)
    assert len({made.nodes[spot.node_id].rack + made.nodes[spot.node_id].zone for spot in plan.placed[0].spots}) == 1
    plan = decide(made, [Workload("w", demand(4), members=3, together="rack")], now=0)
    assert plan.refused[0].code == "impossible"
    assert plan.refused[0].reason == "needs room for 3 members in one rack; the largest would hold 2, were it empty"
    made.start(
        running(Workload("r", demand(1)), Spot("x10", (0,)), Spot("x20", (0,)), Spot("y10", (0,)), Spot("y20", (0,)))
    )
    plan = decide(made, [Workload("w", demand(4), members=2, together="rack")], now=0)
    assert plan.refused[0].code == "capacity"
    assert plan.refused[0].reason == "there is room for all 2 members, but not in one rack"
    made.stop("r")
    replicas = [Workload(f"r{n}", demand(1), group="g", spread="zone") for n in range(4)]
    plan = decide(made, replicas, now=0)
    zones = [made.nodes[each.spots[0].node_id].zone for each in plan.placed]
    assert sorted(zones) == ["x", "x", "y", "y"]


def test_all_members_on_one_node() -> None:
    made = cluster(node("n1"), node("n2", 8))
    plan = decide(made, [Workload("w", demand(2), members=3, together="node")], now=0)
    assert {spot.node_id for spot in plan.placed[0].spots} == {"n2"}


def test_a_rack_draws_no_more_than_it_may() -> None:
    made = cluster(node("n1", rack="r"), rack_watts={"z1/r": 1_300})
    plan = decide(made, [Workload("w", demand(3))], now=0)
    assert (plan.refused[0].code, plan.refused[0].reason) == (
        "power",
        "needs 1500 W more in a rack; rack z1/r may draw 1100 W more, the others less",
    )
    made.start(running(Workload("r", demand(2)), Spot("n1", (0, 1))))
    assert decide(made, [Workload("w", demand(1))], now=0).refused[0].code == "power"


def test_a_share_goes_to_an_accelerator_that_draws_its_power_already() -> None:
    made = cluster(node("n1", rack="r"), rack_watts={"z1/r": 700})
    made.start(running(Workload("r", demand(1, 500)), Spot("n1", (2,))))
    plan = decide(made, [Workload("w", demand(1, 250))], now=0)
    assert plan.placed == (Placed("w", (Spot("n1", (2,)),)),)


def test_the_more_important_goes_first_and_spot_last() -> None:
    made = cluster(node("n1", 1))
    waiting = [
        Workload("spot", demand(), is_spot=True, priority=9),
        Workload("low", demand(), since=1),
        Workload("high", demand(), priority=5, since=2),
    ]
    assert [each.workload_id for each in decide(made, waiting, now=3).placed] == ["high"]


def test_who_uses_less_of_his_guarantees_is_served_first() -> None:
    made = cluster(node("n1", 4))
    quotas = [Quota(("big",), "a", 4_000), Quota(("small",), "a", 1_000)]
    made.start(running(Workload("r", demand(), owner=("big", "p")), Spot("n1", (0,))))
    made.start(running(Workload("s", demand(), owner=("small", "p")), Spot("n1", (1,))))
    waiting = [
        Workload("b", demand(2), owner=("big", "p"), since=2),
        Workload("t", demand(2), owner=("small", "p"), since=1),
    ]
    assert [each.workload_id for each in decide(made, waiting, quotas, now=3).placed] == ["b"]


def test_a_ceiling_is_kept_and_says_so() -> None:
    made = cluster(node("n1", 8))
    quotas = [Quota(("o",), "a", 1_000, 4_000), Quota(("o", "p"), "a", 0, 2_000)]
    made.start(running(Workload("r", demand(), owner=("o", "p")), Spot("n1", (0,))))
    plan = decide(
        made, [Workload("w", demand(2), owner=("o", "p")), Workload("x", demand(2), owner=("o", "q"))], quotas, now=0
    )
    assert plan.refused[0].code == "quota"
    assert plan.refused[0].reason == "the quota of this project allows 2 × a; 1 × a in use, 2 × a asked for"
    assert [each.workload_id for each in plan.placed] == ["x"]


def test_a_quota_of_one_type_leaves_the_others() -> None:
    made = cluster(node("n1"), node("n2", kind="b"))
    quotas = [Quota(("o",), "a", 0, 0)]
    assert decide(made, [Workload("w", demand(4), owner=("o", "p"))], quotas, now=0).placed[0].spots[0].node_id == "n2"


def test_what_was_borrowed_is_given_back() -> None:
    made = cluster(node("n1", 4))
    quotas = [Quota(("a",), "a", 2_000), Quota(("b",), "a", 2_000)]
    for index in range(4):
        made.start(running(Workload(f"b{index}", demand(), owner=("b", "p")), Spot("n1", (index,)), since=index))
    mine = Workload("mine", demand(2), owner=("a", "p"))
    plan = decide(made, [mine], quotas, now=9)
    assert {each.workload_id for each in plan.preempted} == {"b2", "b3"}
    assert plan.refused[0].code == "waits_for_preemption"
    waiting = carry_out(made, [mine], plan, now=9)
    assert [each.workload_id for each in decide(made, waiting, quotas, now=10).placed] == ["mine"]
    more = Workload("more", demand(1), owner=("a", "p"))
    made.start(running(mine, Spot("n1", (2, 3))))
    assert not decide(made, [more], quotas, now=11).preempted  # beyond its guarantee it takes nobody's


def test_the_least_work_is_lost() -> None:
    made = cluster(node("n1", 2), node("n2", 2), node("n3", 2))
    for name, index, cost in (("n1", 0, 500.0), ("n1", 1, 10.0), ("n2", 0, 100.0), ("n2", 1, 90.0)):
        made.start(running(Workload(f"{name}-{index}", demand()), Spot(name, (index,)), cost=cost))
    made.start(running(Workload("n3", demand(2), priority=9), Spot("n3", (0, 1))))
    plan = decide(made, [Workload("w", demand(2), priority=5)], now=0)
    assert {each.workload_id for each in plan.preempted} == {"n2-0", "n2-1"}
    plan = decide(made, [Workload("w", demand(1), priority=5)], now=0)
    assert [each.workload_id for each in plan.preempted] == ["n1-1"]


def test_spot_goes_before_what_is_not_and_equals_are_let_be() -> None:
    made = cluster(node("n1", 2))
    made.start(running(Workload("spot", demand(), is_spot=True, priority=9), Spot("n1", (0,)), cost=1e6))
    made.start(running(Workload("low", demand()), Spot("n1", (1,))))
    assert [each.workload_id for each in decide(made, [Workload("w", demand(), priority=1)], now=0).preempted] == [
        "spot"
    ]
    made.stop("spot")
    made.start(running(Workload("same", demand(), priority=1), Spot("n1", (0,))))
    made.stop("low")
    made.start(running(Workload("also", demand(), priority=1), Spot("n1", (1,))))
    assert not decide(made, [Workload("w", demand(), priority=1)], now=0).preempted


def test_nobody_else_is_stopped_while_room_is_being_made() -> None:
    made = cluster(node("n1", 1), node("n2", 1))
    made.start(running(Workload("going", demand()), Spot("n1", (0,)), leaving=True))
    made.start(running(Workload("low", demand()), Spot("n2", (0,))))
    plan = decide(made, [Workload("w", demand(), priority=5), Workload("v", demand(), priority=0)], now=0)
    assert not plan.preempted
    assert [(each.workload_id, each.code) for each in plan.refused] == [
        ("w", "waits_for_preemption"),
        ("v", "capacity"),
    ]


def test_a_gang_is_stopped_as_a_whole() -> None:
    made = cluster(node("n1", 1), node("n2", 1))
    made.start(running(Workload("gang", demand(), members=2), Spot("n1", (0,)), Spot("n2", (0,))))
    plan = decide(made, [Workload("w", demand(), priority=1)], now=0)
    assert [each.workload_id for each in plan.preempted] == ["gang"]


def test_nodes_are_held_for_what_waits_too_long() -> None:
    made = cluster(node("n1", 4), node("n2", 4))
    for name in ("n1", "n2"):
        made.start(running(Workload(f"r-{name}", demand(1)), Spot(name, (0,))))
    large = Workload("large", demand(4), since=0)
    small = [Workload(f"small{n}", demand(1), since=1) for n in range(6)]
    plan = decide(made, [large, *small], now=100, settings=Settings(patience_seconds=600))
    assert len(plan.placed) == 6
    plan = decide(made, [large, *small], now=1_000, settings=Settings(patience_seconds=600))
    assert len({each.spots[0].node_id for each in plan.placed}) == 1
    assert plan.refused[0].reason.endswith("nodes are held for it as they empty")


def test_what_ran_on_a_lost_node_is_told_and_forgotten() -> None:
    made = cluster(node("n1"), node("n2"))
    made.start(running(Workload("gang", demand(2), members=2), Spot("n1", (0, 1)), Spot("n2", (0, 1))))
    made.start(running(Workload("stays", demand()), Spot("n1", (3,))))
    assert made.update([node("n1", labels={"new": "label"})]) == ("gang",)
    assert [*made.running] == ["stays"]
    assert made.packing.free("n1").accelerators == (1000, 1000, 1000, 0)
