"""What chooses a place: an index over all nodes that its owner keeps in step with what runs."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from cloudcrest.compute.scheduler.model import Demand, Node, Spot


class Free(msgspec.Struct, frozen=True):
    """What is free on a node: `accelerators` has what is left of each, in thousandths, by index."""

    cpu_milli: int
    memory_bytes: int
    accelerators: tuple[int, ...]


class Packing(Protocol):
    """Nodes and what is taken of them. It remembers demands, and chooses so that the like of them find room later."""

    def add(self, node: Node) -> None:
        """A node, empty; in the place of one of its id, which must be empty too."""
        ...

    def remove(self, node_id: str) -> None:
        """Forgets a node, whatever is taken of it."""
        ...

    def observe(self, demand: Demand) -> None:
        """Remembers that this was asked for."""
        ...

    def look_again(self) -> None:
        """Reckons anew with what is free, at the beginning of a decision: what it chooses follows from that alone."""
        ...

    def choose(self, demand: Demand, among: Iterable[str] | None = None) -> Spot | None:
        """The place for a demand, of all nodes that are schedulable or `among` those named. None: it fits nowhere;
        what fits somewhere is never declined. Nothing is taken yet.
        """
        ...

    def take(self, spot: Spot, demand: Demand) -> None:
        """Takes what the demand needs there. Raises `ValueError` where that is not free."""
        ...

    def give_back(self, spot: Spot, demand: Demand) -> None:
        """Gives it back. Raises `ValueError` where more would be free than there is."""
        ...

    def free(self, node_id: str) -> Free:
        """What is free on a node. Raises `KeyError` for one that is not there."""
        ...
