"""What is taken of each node, accelerator by accelerator: exact integers, and nothing else."""

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Spot
from cloudcrest.compute.scheduler.packing.api import Free
from cloudcrest.kernel.units import MIB


def memory_mib(demand: Demand) -> int:
    """What a demand needs, in whole mebibytes: small differences then make no difference."""
    return -(-demand.memory_bytes // MIB)


def fits_type(node: Node, demand: Demand) -> bool:
    """Whether a node's accelerators, were they free, are what a demand asks for."""
    if demand.accelerators == 0:
        return True
    if node.accelerators < demand.accelerators or (demand.types and node.accelerator_type not in demand.types):
        return False
    return node.accelerator_memory_bytes * demand.milli >= demand.accelerator_memory_bytes * WHOLE


class NodeBook:
    """One node's. `left` has what is free of each accelerator. Memory is counted in whole mebibytes: what a node has is
    rounded down, what is asked for up. `shape` and `number`: for whoever keeps shapes, and an order of nodes.
    """

    __slots__ = ("cpu_milli", "left", "memory_mib", "node", "number", "shape")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpu_milli = node.cpu_milli
        self.memory_mib = node.memory_bytes // MIB
        self.shape = 0
        self.number = 0
        self.left = [WHOLE] * node.accelerators

    def free(self) -> Free:
        return Free(self.cpu_milli, self.memory_mib * MIB, tuple(self.left))

    @property
    def is_empty(self) -> bool:
        return (
            self.cpu_milli == self.node.cpu_milli
            and self.memory_mib == self.node.memory_bytes // MIB
            and all(left == WHOLE for left in self.left)
        )

    def fits(self, demand: Demand) -> bool:
        """Whether a demand fits now."""
        if self.cpu_milli < demand.cpu_milli or self.memory_mib < memory_mib(demand):
            return False
        if not fits_type(self.node, demand):
            return False
        return sum(1 for left in self.left if left >= demand.milli) >= demand.accelerators

    def take(self, spot: Spot, demand: Demand) -> None:
        """Raises `ValueError` where it is not free, and then takes nothing."""
        indexes = spot.accelerators
        if self.cpu_milli < demand.cpu_milli or self.memory_mib < memory_mib(demand):
            raise ValueError(f"node {self.node.id} has not enough CPU or memory free")
        if len(set(indexes)) != demand.accelerators or len(indexes) != demand.accelerators:
            raise ValueError(f"{demand.accelerators} accelerators are asked for, {len(indexes)} named")
        if any(not 0 <= index < len(self.left) or self.left[index] < demand.milli for index in indexes):
            raise ValueError(f"node {self.node.id} has not so much free of its accelerators {indexes}")
        self.cpu_milli -= demand.cpu_milli
        self.memory_mib -= memory_mib(demand)
        for index in indexes:
            self.left[index] -= demand.milli

    def give_back(self, spot: Spot, demand: Demand) -> None:
        """Raises `ValueError` where more would be free than there is, and then gives nothing back."""
        node = self.node
        if (
            self.cpu_milli + demand.cpu_milli > node.cpu_milli
            or self.memory_mib + memory_mib(demand) > node.memory_bytes // MIB
            or any(
                not 0 <= index < len(self.left) or self.left[index] + demand.milli > WHOLE
                for index in spot.accelerators
            )
        ):
            raise ValueError(f"more would be free on node {node.id} than it has")
        self.cpu_milli += demand.cpu_milli
        self.memory_mib += memory_mib(demand)
        for index in spot.accelerators:
            self.left[index] += demand.milli

    def indexes(self, demand: Demand, level: int) -> tuple[int, ...]:
        """The first accelerators of which just so much is left, as many as a demand needs."""
        found = [index for index, left in enumerate(self.left) if left == level]
        return tuple(found[: demand.accelerators])
