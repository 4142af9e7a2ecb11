"""Small clusters and what asks for room in them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Plan, Running, Spot, Workload
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.compute.scheduler.quotas import Quota, QuotaTree, usage_of
from cloudcrest.kernel.units import GIB


def node(
    name: str,
    accelerators: int = 4,
    *,
    kind: str = "a",
    zone: str = "z1",
    rack: str = "",
    taints: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    price: float = 1.0,
    is_schedulable: bool = True,
) -> Node:
    return Node(
        name,
        32_000,
        128 * GIB,
        accelerator_type=kind if accelerators else None,
        accelerators=accelerators,
        accelerator_memory_bytes=80 * GIB if accelerators else 0,
        accelerator_watts=500 if accelerators else 0,
        power_watts=200,
        price_per_accelerator_second=price,
        zone=zone,
        rack=rack,
        taints=frozenset(taints),
        labels=labels or {},
        is_schedulable=is_schedulable,
    )


def demand(accelerators: int = 1, milli: int = WHOLE, *, cpu: int = 1_000, types: Iterable[str] = ()) -> Demand:
    return Demand(cpu, GIB, accelerators, milli, frozenset(types))


def cluster(*nodes: Node, rack_watts: Mapping[str, int] | None = None) -> Cluster:
    made = Cluster(BestFit(), rack_watts or {})
    made.update(nodes)
    return made


def running(workload: Workload, *spots: Spot, since: float = 0.0, cost: float = 0.0, leaving: bool = False) -> Running:
    return Running(workload, spots, since, cost, leaving)


def carry_out(made: Cluster, waiting: Iterable[Workload], plan: Plan, *, now: float) -> list[Workload]:
    """Starts and stops as the plan says; who waits still, and to whom room is promised."""
    by_id = {workload.id: workload for workload in waiting}
    stopped = []
    for preempted in plan.preempted:
        stopped.append(made.running[preempted.workload_id].workload)
        made.stop(preempted.workload_id)
    for placed in plan.placed:
        made.start(Running(by_id.pop(placed.workload_id), placed.spots, now))
    for refused in plan.refused:
        is_promised = refused.code == "waits_for_preemption"
        by_id[refused.workload_id] = replace(by_id[refused.workload_id], is_promised=is_promised)
    return [*by_id.values(), *(replace(each, is_promised=False) for each in stopped)]


def used(made: Cluster) -> dict[str, object]:
    """What is free everywhere: equal before and after, where nothing was changed."""
    return {name: made.packing.free(name) for name in made.nodes}


def check(made: Cluster, quotas: Iterable[Quota] = ()) -> None:
    """Nothing is given out twice; ceilings and racks' limits are kept."""
    left = {name: [WHOLE] * each.accelerators for name, each in made.nodes.items()}
    cpu = {name: each.cpu_milli for name, each in made.nodes.items()}
    watts: defaultdict[str, int] = defaultdict(int)
    tree = QuotaTree(quotas)
    for each in made.running.values():
        assert len(each.spots) == each.workload.members
        tree.use(each.workload.owner, usage_of(each, made.nodes))
        for spot in each.spots:
            cpu[spot.node_id] -= each.workload.demand.cpu_milli
            assert len(spot.accelerators) == each.workload.demand.accelerators
            for index in spot.accelerators:
                left[spot.node_id][index] -= each.workload.demand.milli
    assert all(value >= 0 for values in left.values() for value in values)
    assert all(value >= 0 for value in cpu.values())
    for name, machine in made.nodes.items():
        busy = sum(1 for value in left[name] if value < WHOLE)
        watts[domain_of(machine, "rack")] += machine.power_watts + busy * machine.accelerator_watts
    assert all(left is None or left >= 0 for left in map(made.disk_left, made.nodes.values()))
    assert all(watts[rack] <= most for rack, most in made.rack_watts.items())
    for quota in quotas:
        assert quota.ceiling_milli is None or tree.used(quota.owner, quota.resource) <= quota.ceiling_milli
