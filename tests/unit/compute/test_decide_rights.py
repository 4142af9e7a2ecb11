"""Who may stop whom by which right: of the type that is guaranteed, of organizations and of projects."""

import pytest

from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.model import Plan, Spot, Workload
from cloudcrest.compute.scheduler.plan import decide
from cloudcrest.compute.scheduler.quotas import Quota, QuotaTree
from tests.unit.compute.clusters import carry_out, cluster, demand, node, running

ALL = (0, 1, 2, 3)


def until_it_rests(made: Cluster, waiting: list[Workload], quotas: tuple[Quota, ...]) -> list[Workload]:
    """Carries out plans until there is nothing to do; who waits then."""
    for now in range(20):
        plan = decide(made, waiting, quotas, now=now)
        if not plan.placed and not plan.preempted:
            return waiting
        waiting = carry_out(made, waiting, plan, now=now)
    raise AssertionError("it goes on for ever")


def test_a_guarantee_of_one_type_is_no_right_to_another() -> None:
    quotas = (Quota(("o1",), "a", 4_000), Quota(("o2",), "b", 4_000))
    made = cluster(node("n1"), node("n2", kind="b"))
    made.start(running(Workload("cloud", demand(4), priority=9), Spot("n1", ALL)))
    made.start(running(Workload("theirs", demand(4, types=("b",)), owner=("o2",)), Spot("n2", ALL)))
    asks = Workload("mine", demand(4), owner=("o1",), priority=5)
    assert not decide(made, [asks], quotas, now=0).preempted
    assert [each.id for each in until_it_rests(made, [asks], quotas)] == ["mine"]


def test_spot_is_stopped_on_types_that_are_not_guaranteed_too() -> None:
    quotas = (Quota(("o1",), "a", 4_000),)
    made = cluster(node("n1"), node("n2", kind="b"))
    made.start(running(Workload("cloud", demand(4), priority=9), Spot("n1", ALL)))
    made.start(running(Workload("spot", demand(4), owner=("o2",), is_spot=True), Spot("n2", ALL)))
    plan = decide(made, [Workload("mine", demand(4), owner=("o1",))], quotas, now=0)
    assert [each.workload_id for each in plan.preempted] == ["spot"]


def test_borrowed_cpus_are_given_back_for_guaranteed_accelerators() -> None:
    quotas = (Quota(("o1",), "a", 4_000),)
    made = cluster(node("n1"))
    made.start(running(Workload("cpus", demand(0, cpu=32_000), owner=("o2",), priority=5), Spot("n1")))
    waiting = until_it_rests(made, [Workload("mine", demand(4), owner=("o1",))], quotas)
    assert [*made.running] == ["mine"]
    assert [each.id for each in waiting] == ["cpus"]


@pytest.mark.parametrize("sibling", [("o1", "p2"), ("o1", "p3"), ("o1",)])
@pytest.mark.parametrize("most", [4_000, 8_000, 20_000])
def test_a_project_gets_back_what_its_siblings_borrow(sibling: tuple[str, ...], most: int) -> None:
    quotas = (Quota(("o1",), "a", most), Quota(("o1", "p1"), "a", 4_000), Quota(("o1", "p2"), "a", 4_000))
    made = cluster(node("n1"), node("n2"))
    made.start(running(Workload("first", demand(4), owner=sibling, priority=9), Spot("n1", ALL), since=1))
    made.start(running(Workload("second", demand(4), owner=sibling, priority=9), Spot("n2", ALL), since=2))
    waiting = until_it_rests(made, [Workload("mine", demand(4), owner=("o1", "p1"))], quotas)
    assert "mine" in made.running
    assert [each.id for each in waiting] == ["second" if sibling == ("o1", "p2") else "first"]


def test_a_project_that_borrows_leaves_its_siblings_theirs() -> None:
    quotas = (Quota(("o1",), "a", 8_000), Quota(("o1", "p1"), "a", 4_000))
    made = cluster(node("n1"))
    made.start(running(Workload("theirs", demand(4), owner=("o1", "p1")), Spot("n1", ALL)))
    plan: Plan = decide(made, [Workload("mine", demand(4), owner=("o1", "p3"), priority=9)], quotas, now=0)
    assert not plan.preempted
    assert plan.refused[0].code == "capacity"


def test_what_a_project_is_guaranteed_is_its_organizations_first() -> None:
    quotas = (Quota(("o1",), "a", 4_000), Quota(("o1", "p1"), "a", 4_000))
    made = cluster(node("n1"), node("n2"))
    made.start(running(Workload("p1", demand(4), owner=("o1", "p1")), Spot("n1", ALL), since=2))
    made.start(running(Workload("p3", demand(4), owner=("o1", "p3"), priority=9), Spot("n2", ALL), since=1))
    borrowed = QuotaTree(quotas).borrowed(list(made.running.values()), made.nodes)
    assert not borrowed["p1"].organization
    assert borrowed["p3"].organization == {"a"}


def test_who_was_promised_room_goes_where_it_is_his() -> None:
    quotas = (Quota(("o2",), "a", 1_000),)
    made = cluster(node("b1", 1, kind="b"), node("a1", 1))
    made.start(running(Workload("cloud", demand(1, 500)), Spot("b1", (0,))))
    made.start(running(Workload("both", demand(1, 500), members=2, owner=("o1", "p1"), priority=1),
                       Spot("b1", (0,)), Spot("a1", (0,))))  # fmt: skip
    waiting = until_it_rests(made, [Workload("mine", demand(1, 250), members=3, owner=("o2", "p3"))], quotas)
    assert [each.id for each in waiting] == ["both"]
    assert {spot.node_id for spot in made.running["mine"].spots} == {"a1"}
