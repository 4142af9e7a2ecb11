"""What of the idle accelerators is of no use to demands as they come: FGD's measure (USENIX ATC'23). Pure."""

from collections.abc import Sequence

from cloudcrest.compute.scheduler.model import Demand, Node
from cloudcrest.compute.scheduler.packing.api import Free
from cloudcrest.compute.scheduler.packing.books import fits_type


def fragmented_milli(nodes: Sequence[Node], frees: Sequence[Free], demands: Sequence[tuple[Demand, int]]) -> int:
    """Thousandths, averaged over demands by how often each came. Of a node that cannot run a demand at all everything
    idle counts, else the accelerators of which less is left than it asks for.
    """
    total = sum(count for _, count in demands)
    if not total:
        return 0
    fragmented = 0.0
    for node, free in zip(nodes, frees, strict=True):
        idle = sum(free.accelerators)
        if idle:
            fragmented += sum(count * _unusable(node, free, idle, demand) for demand, count in demands) / total
    return round(fragmented)


def _unusable(node: Node, free: Free, idle: int, demand: Demand) -> int:
    usable = [left for left in free.accelerators if left >= demand.milli]
    can_run = (
        demand.accelerators > 0
        and free.cpu_milli >= demand.cpu_milli
        and free.memory_bytes >= demand.memory_bytes
        and len(usable) >= demand.accelerators
        and fits_type(node, demand)
    )
    return idle - sum(usable) if can_run else idle
