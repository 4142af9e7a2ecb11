"""In which order types of accelerators are tried for a workload that has a preference."""

from collections.abc import Iterator

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.model import Demand, Workload


def type_choices(cluster: Cluster, workload: Workload) -> Iterator[Demand]:
    """The demand as it is where the packing chooses between types; else a demand for one type after the other."""
    demand = workload.demand
    if workload.prefers == "packing" or not demand.accelerators:
        yield demand
        return
    prices: dict[str, float] = {}
    for node in cluster.nodes.values():
        kind = node.accelerator_type
        if kind is not None and (not demand.types or kind in demand.types):
            prices[kind] = min(prices.get(kind, node.price_per_accelerator_second), node.price_per_accelerator_second)
    if workload.prefers == "cheapest":
        order = sorted(prices, key=lambda kind: (prices[kind], kind))
    else:
        named = [kind for kind in workload.type_order if kind in prices]
        order = [*named, *sorted(prices.keys() - set(named))]
    for kind in order:
        yield msgspec.structs.replace(demand, types=frozenset((kind,)))
