"""Work goes where there is disk for it, and says so where there is none."""

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.model import Node, Placed, Plan, Preempted, Refused, Running, Spot, Workload
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.compute.scheduler.plan import decide
from cloudcrest.kernel.units import GIB
from tests.unit.compute.clusters import check, demand, node

GB = 10**9


def with_disk(name: str, disk_bytes: int, *, accelerators: int = 0) -> Node:
    return msgspec.structs.replace(node(name, accelerators), disk_bytes=disk_bytes)


def wants(name: str, disk_bytes: int, *, cpu: int = 1_000, **more: object) -> Workload:
    return msgspec.structs.replace(Workload(name, demand(0, cpu=cpu)), disk_bytes=disk_bytes, **more)


def made(*nodes: Node, packing: type = BestFit, room: dict[str, int] | None = None) -> Cluster:
    cluster = Cluster(packing(), {}, room or {})
    cluster.update(nodes)
    return cluster


def decided(cluster: Cluster, *waiting: Workload) -> Plan:
    plan = decide(cluster, waiting, now=0.0)
    check(cluster)
    return plan


def test_it_goes_where_its_disk_is_free_and_nowhere_else() -> None:
    for packing in (BestFit, PackingIndex):
        cluster = made(with_disk("small", 100 * GB), with_disk("large", 500 * GB), packing=packing)
        plan = decided(cluster, wants("j1", 300 * GB), wants("j2", 150 * GB), wants("j3", 90 * GB))
        assert {each.workload_id: each.spots[0].node_id for each in plan.placed} == {
            "j1": "large",
            "j2": "large",
            "j3": "small",
        }
        full = decided(made(with_disk("small", 100 * GB), packing=packing), wants("j1", 60 * GB), wants("j2", 60 * GB))
        assert [each.workload_id for each in full.placed] == ["j1"]
        assert full.refused == (
            Refused("j2", "capacity", "needs 60.0 GB of disk free on one node; the best that would do has 40.0 GB"),
        )


def test_what_no_disk_could_ever_hold_is_impossible() -> None:
    cluster = made(with_disk("a", 100 * GB), with_disk("b", 200 * GB))
    assert decided(cluster, wants("j", 201 * GB)).refused == (
        Refused("j", "impossible", "needs 201.0 GB of disk on one node; the largest has 200.0 GB"),
    )
    gang = decided(cluster, wants("g", 100 * GB, members=4)).refused[0]
    assert (gang.code, gang.reason) == (
        "impossible",
        "needs room for 4 members at once; all nodes together would hold 3, were they empty",
    )
    assert len(decided(cluster, wants("g", 100 * GB, members=3)).placed[0].spots) == 3


def test_what_else_is_on_a_disk_is_not_given_out() -> None:
    cluster = made(with_disk("a", 100 * GB), room={"a": 30 * GB})
    refused = decided(cluster, wants("j", 40 * GB)).refused[0]
    assert (refused.code, refused.reason) == (
        "capacity",
        "needs 40.0 GB of disk free on one node; the best that would do has 30.0 GB",
    )
    cluster.disk_room = {"a": 50 * GB}
    assert decided(cluster, wants("j", 40 * GB)).placed == (Placed("j", (Spot("a"),)),)


def test_a_disk_that_is_not_known_is_no_limit_and_who_asks_for_none_is_not_held_up() -> None:
    cluster = made(node("old", 0))
    assert decided(cluster, wants("j", 10**15)).placed
    full = made(with_disk("a", 100 * GB), room={"a": 0})
    assert decided(full, wants("j", 0)).placed


def test_disk_comes_back_at_the_end_and_by_preemption() -> None:
    cluster = made(with_disk("a", 100 * GB))
    spot = wants("s", 80 * GB, is_spot=True)
    cluster.start(Running(spot, (Spot("a"),), 0.0))
    plan = decided(cluster, wants("j", 50 * GB))
    assert [type(each) for each in plan.preempted] == [Preempted]
    assert plan.preempted[0].workload_id == "s"
    assert plan.refused[0].code == "waits_for_preemption"
    cluster.stop("s")
    assert decided(cluster, wants("j", 50 * GB)).placed
    cluster.update([msgspec.structs.replace(with_disk("a", 100 * GB), memory_bytes=64 * GIB)])
    assert cluster.disk_left(cluster.nodes["a"]) == 100 * GB
