"""The policies: FGD's as they are published, and ours. Each chooses where a demand goes and keeps its own books.

FGD: ⌊100·σ((F before − F after) / 1000)⌋, F the idle accelerators that typical demands cannot use, weighted by how
often each comes; typical: the most frequent, up to 95% of all. BestFit: the least that is left of CPU and accelerators.
Ties go to the first node.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.scheduling.trace import Workload
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Spot
from cloudcrest.compute.scheduler.packing.books import NodeBook
from cloudcrest.compute.scheduler.packing.classes import Flags, Floats, Ints, holds, shape_key
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.compute.scheduler.packing.states import FIXED, Ids, States
from cloudcrest.compute.scheduler.packing.successors import Successors
from cloudcrest.kernel.units import MIB

_TYPICAL = 0.95
_LARGEST_CPU, _LARGEST_NODE = 128_000, 8 * WHOLE


class Policy(Protocol):
    """Places one demand after the other."""

    def place(self, demand: Demand) -> bool:
        """Whether it found room."""
        ...

    def rows(self) -> Ints:
        """What is left of each node."""
        ...


class Ours:
    """The scheduler's packing, which knows the demands as a live cluster knows its history."""

    def __init__(self, workload: Workload, seed: int) -> None:  # noqa: ARG002 - nothing of it is drawn
        self._packing = PackingIndex()
        self._nodes = workload.nodes
        for node in workload.nodes:
            self._packing.add(node)
        for demand in workload.demands:
            self._packing.observe(demand)

    def place(self, demand: Demand) -> bool:
        spot = self._packing.choose(demand)
        if spot is not None:
            self._packing.take(spot, demand)
        return spot is not None

    def rows(self) -> Ints:
        shapes, states = _shapes(self._nodes), _states(self._nodes)
        frees = [self._packing.free(node.id) for node in self._nodes]
        return np.array(
            [
                states.row_of(shapes[shape_key(node)], free.cpu_milli, free.memory_bytes // MIB, free.accelerators)
                for node, free in zip(self._nodes, frees, strict=True)
            ],
            dtype=np.int32,
        )


Score = Callable[[States, Ids, Ids], Floats]
"""Of each way from a state to another."""


class ByScore:
    """A policy that looks at the node alone: the best score, the first node of those that share it."""

    def __init__(self, workload: Workload, score: Score) -> None:
        self._score = score
        self._states = _states(workload.nodes)
        self._books = [NodeBook(node) for node in workload.nodes]
        shapes = _shapes(workload.nodes)
        for book in self._books:
            book.shape = shapes[shape_key(book.node)]
        self._examples = list({shape_key(node): node for node in workload.nodes}.values())
        self._at: Ids = np.array([self._state(book) for book in self._books], dtype=np.int64)
        self._ways: dict[Demand, Successors] = {}

    def place(self, demand: Demand) -> bool:
        best = self._best(demand)
        if best is None:
            return False
        index, level = best
        book = self._books[index]
        book.take(Spot(book.node.id, book.indexes(demand, level)), demand)
        self._states.nodes[self._at[index]] -= 1
        self._at[index] = self._state(book)
        return True

    def rows(self) -> Ints:
        return self._states.rows[self._at]

    def _look(self, demand: Demand, active: Ids) -> Successors:
        ways = self._ways.get(demand)
        if ways is None:
            fits: Flags = np.array([holds(example, demand) for example in self._examples], dtype=np.bool_)
            ways = self._ways[demand] = Successors(demand, fits)
        ways.look_at(self._states, active)
        return ways

    def _best(self, demand: Demand) -> tuple[int, int] | None:
        ways = self._look(demand, np.unique(self._at))
        usable = np.flatnonzero(self._states.nodes[ways.sources] > 0)
        if not len(usable):
            return None
        sources, targets = ways.sources[usable], ways.targets[usable]
        scores = self._score(self._states, sources, targets)
        best = np.full(self._states.size, -np.inf)
        np.maximum.at(best, sources, scores)
        index = int(best[self._at].argmax())
        source = int(self._at[index])
        mine = np.flatnonzero((sources == source) & (scores == best[source]))
        level = ways.levels[usable][mine].min()
        return index, int(level)

    def _state(self, book: NodeBook) -> int:
        row = self._states.row_of(book.shape, book.cpu_milli, book.memory_mib, book.left)
        state = int(self._states.ids(row[None, :])[0])
        self._states.nodes[state] += 1
        return state


def best_fit(workload: Workload, seed: int) -> Policy:  # noqa: ARG001 - nothing of it is drawn
    """The least that is left."""

    def score(states: States, _: Ids, targets: Ids) -> Floats:
        left = 0.5 * states.rows[targets, 1] / _LARGEST_CPU + 0.5 * states.left[targets] / _LARGEST_NODE
        scores: Floats = np.floor((1 - left) * 100)
        return scores

    return ByScore(workload, score)


def fgd(workload: Workload, seed: int) -> Policy:  # noqa: ARG001 - nothing of it is drawn
    """The least fragmentation."""
    fragments = Fragmentation(workload)
    known: Floats = np.zeros(0)

    def score(states: States, sources: Ids, targets: Ids) -> Floats:
        nonlocal known
        if len(known) < states.size:
            known = np.concatenate([known, fragments.of(states.rows[len(known) : states.size])])
        scores: Floats = np.floor(100 / (1 + np.exp(-(known[sources] - known[targets]) / 1000)))
        return scores

    return ByScore(workload, score)


class AtRandom(ByScore):
    """Any node that has room, any accelerator of it."""

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, lambda _, sources, __: np.zeros(len(sources)))
        self._rng = random.Random(seed)

    def _best(self, demand: Demand) -> tuple[int, int] | None:
        fitting = [index for index, book in enumerate(self._books) if book.fits(demand)]
        if not fitting:
            return None
        index = self._rng.choice(fitting)
        usable = [left for left in self._books[index].left if left >= demand.milli]
        return index, self._rng.choice(usable) if demand.accelerators else 0


class Fragmentation:
    """FGD's measure: what typical demands cannot use of what is idle."""

    def __init__(self, workload: Workload) -> None:
        examples = list({shape_key(node): node for node in workload.nodes}.values())
        common = Counter((each.cpu_milli, each.accelerators, each.milli, each.types) for each in workload.demands)
        taken, covered = [], 0
        for kind, count in common.most_common():
            taken.append((kind, count))
            covered += count
            if covered >= _TYPICAL * len(workload.demands):
                break
        self._share = np.array([count for _, count in taken]) / covered
        self._cpu = np.array([kind[0] for kind, _ in taken])
        self._count = np.array([kind[1] for kind, _ in taken])
        self._milli = np.array([kind[2] if kind[1] else 0 for kind, _ in taken])
        self._types: NDArray[np.bool_] = np.array(
            [[not kind[3] or (node.accelerator_type or "") in kind[3] for node in examples] for kind, _ in taken]
        )

    def of(self, rows: Ints) -> Floats:
        """Thousandths, for each state."""
        left = rows[:, FIXED:]
        total = left.sum(axis=1)
        amount = np.zeros(len(rows))
        for index, share in enumerate(self._share):
            usable = left >= max(1, self._milli[index])
            can_run = (
                (rows[:, 1] >= self._cpu[index])
                & self._types[index, rows[:, 0]]
                & (self._count[index] > 0)
                & (usable.sum(axis=1) >= self._count[index])
            )
            amount += share * np.where(can_run, np.where(usable, 0, left).sum(axis=1), total)
        return amount


def _states(nodes: Sequence[Node]) -> States:
    return States(max(8, *(node.accelerators for node in nodes)))


def _shapes(nodes: Sequence[Node]) -> dict[tuple[object, ...], int]:
    """The number of each shape: shapes in the order in which they come first."""
    return {key: number for number, key in enumerate(dict.fromkeys(map(shape_key, nodes)))}


POLICIES: dict[str, Callable[[Workload, int], Policy]] = {
    "Random": AtRandom,
    "BestFit": best_fit,
    "FGD": fgd,
    "Cloudcrest": Ours,
}
