"""The plainest packing: the fullest place that still fits. For few nodes, and to hold others to."""

from collections.abc import Iterable

from cloudcrest.compute.scheduler.model import Demand, Node, Spot
from cloudcrest.compute.scheduler.packing.api import Free
from cloudcrest.compute.scheduler.packing.books import NodeBook


class BestFit:
    """Implements `Packing` by looking at every node."""

    def __init__(self) -> None:
        self._books: dict[str, NodeBook] = {}

    def add(self, node: Node) -> None:
        self._books[node.id] = NodeBook(node)

    def remove(self, node_id: str) -> None:
        del self._books[node_id]

    def observe(self, demand: Demand) -> None:
        """It does not look ahead."""

    def look_again(self) -> None:
        """It reckons with nothing."""

    def choose(self, demand: Demand, among: Iterable[str] | None = None) -> Spot | None:
        names = self._books if among is None else among
        fitting = [book for name in names if (book := self._books[name]).node.is_schedulable and book.fits(demand)]
        best = min(fitting, key=lambda book: _left_over(book, demand), default=None)
        if best is None:
            return None
        order = sorted(range(len(best.left)), key=lambda index: (best.left[index], index))
        usable = [index for index in order if best.left[index] >= demand.milli]
        return Spot(best.node.id, tuple(sorted(usable[: demand.accelerators])))

    def take(self, spot: Spot, demand: Demand) -> None:
        self._books[spot.node_id].take(spot, demand)

    def give_back(self, spot: Spot, demand: Demand) -> None:
        self._books[spot.node_id].give_back(spot, demand)

    def free(self, node_id: str) -> Free:
        return self._books[node_id].free()


def _left_over(book: NodeBook, demand: Demand) -> tuple[int, int, int, str]:
    """What would be left: of accelerators, the tightest one first; then of the CPU."""
    tightest = min((left for left in book.left if left >= demand.milli), default=0) if demand.accelerators else 0
    return (sum(book.left), tightest, book.cpu_milli, book.node.id)
