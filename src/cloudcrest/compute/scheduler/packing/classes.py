"""The kinds of demands that come, how often each does, and what a future of them may look like."""

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node
from cloudcrest.compute.scheduler.packing.books import fits_type, memory_mib
from cloudcrest.kernel.units import MIB

MAX_HISTORY = 8_192
MAX_CLASSES = 1_024
_FIRST_LESSON = 16

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Shape:
    """What nodes have when they are empty, where it is the same for several. `nodes`: how many, of the schedulable."""

    __slots__ = ("example", "nodes")

    def __init__(self, example: Node) -> None:
        self.example = example
        self.nodes = 0


def shape_key(node: Node) -> tuple[object, ...]:
    """Nodes of one key are of one shape."""
    return (
        node.accelerator_type,
        node.accelerators,
        node.accelerator_memory_bytes,
        node.cpu_milli,
        node.memory_bytes // MIB,
    )


class Classes:
    """The kinds of demands in numbers, a row each. `share`: of all demands; `size`: thousandths of accelerators."""

    def __init__(self, demands: Sequence[Demand], counts: Sequence[int]) -> None:
        self.demands = tuple(demands)
        self.share: Floats = np.array(counts, dtype=np.float64) / max(1, sum(counts))
        self.cpu: Ints = np.array([demand.cpu_milli for demand in demands], dtype=np.int32)
        self.memory: Ints = np.array([memory_mib(demand) for demand in demands], dtype=np.int32)
        self.accelerators: Ints = np.array([demand.accelerators for demand in demands], dtype=np.int32)
        self.milli: Ints = np.array([demand.milli if demand.accelerators else 0 for demand in demands], dtype=np.int32)
        self.size: Floats = (self.accelerators * self.milli).astype(np.float64)
        self.mean_size = float(self.share @ self.size)
        self.fits: Flags = np.zeros((len(demands), 0), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.demands)

    def meet(self, shapes: Sequence[Shape]) -> None:
        """Learns which shapes, empty, could hold which kinds."""
        known = self.fits.shape[1]
        columns = [[holds(shape.example, demand) for demand in self.demands] for shape in shapes[known:]]
        if columns:
            new = np.array(columns, dtype=np.bool_).reshape(len(columns), len(self.demands)).T
            self.fits = np.concatenate([self.fits, new], axis=1)


def holds(node: Node, demand: Demand) -> bool:
    """Whether an empty node has room for a demand."""
    if node.cpu_milli < demand.cpu_milli or node.memory_bytes // MIB < memory_mib(demand):
        return False
    return fits_type(node, demand)


class History:
    """The last demands, and when there is enough new in them to learn again."""

    def __init__(self) -> None:
        self._demands: deque[Demand] = deque(maxlen=MAX_HISTORY)
        self._unlearned = 0
        self._lesson = _FIRST_LESSON

    def add(self, demand: Demand) -> None:
        self._demands.append(demand)
        self._unlearned += 1

    @property
    def is_news(self) -> bool:
        """Whether as much again has come as was learned from, or a whole history."""
        return self._unlearned >= self._lesson

    def learn(self) -> Classes:
        """The kinds in it, most frequent first."""
        self._unlearned = 0
        self._lesson = min(max(_FIRST_LESSON, len(self._demands)), MAX_HISTORY)
        common = Counter(self._demands).most_common(MAX_CLASSES)
        return Classes([demand for demand, _ in common], [count for _, count in common])


WINDOW = 2
SEQUENCES = 64
WINDOWS = 32


class Futures:
    """Sequences of windows of demands, drawn by how often each kind comes: (sequence, window, place in it) of class
    indexes. Drawn evenly (each kind as often as its share says, in a random order) and the same for the same classes.
    """

    def __init__(self, classes: Classes) -> None:
        total = SEQUENCES * WINDOWS * WINDOW
        points = (np.arange(total) + 0.5) / total
        drawn = np.minimum(np.searchsorted(np.cumsum(classes.share), points), max(0, len(classes) - 1))
        order = np.random.default_rng(0).permutation(total)
        self.classes: Ints = drawn[order].astype(np.int32).reshape(SEQUENCES, WINDOWS, WINDOW)


assert WHOLE == 1000  # noqa: S101 - shares are summed as integers below 2³¹
