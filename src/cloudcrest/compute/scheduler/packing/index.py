"""The packing: nodes by their states, and the choice between them.

    of every way to place a demand, the one with the most of
        worth of the node's state after it − worth before it             (value.py, prices.py)
        − what it pays for a shape that others need more                 (prices.py)
        − a little for what stays free on the node, and less for what was free of the accelerator

It compares states, not nodes, so its work grows with how different nodes are. Follows FGD (USENIX ATC'23) in looking at
what typical demands could still use, and goes beyond it in filling a node with several of them, and by the prices.
"""

from collections.abc import Iterable

import numpy as np

from cloudcrest.compute.scheduler.model import Demand, Node, Spot
from cloudcrest.compute.scheduler.packing.api import Free
from cloudcrest.compute.scheduler.packing.books import NodeBook
from cloudcrest.compute.scheduler.packing.classes import Classes, Flags, History, Shape, holds, shape_key
from cloudcrest.compute.scheduler.packing.crowd import Crowd
from cloudcrest.compute.scheduler.packing.states import Ids, States
from cloudcrest.compute.scheduler.packing.successors import Successors
from cloudcrest.compute.scheduler.packing.worth import Worth

PRICE_AGAIN = 200
"""Choices between two looks at the prices."""
MAX_STATES = 400_000
MAX_DEMANDS = 2_048
"""Kinds of demands for which it is remembered what follows from what."""
COMPILED_FROM_NODES = 200
TIGHTER = 1e-7
"""Of equal places, the accelerator of which least is left."""
_ACCELERATORS = 8


class PackingIndex:
    """Implements `Packing`."""

    def __init__(self) -> None:
        self._books: dict[str, NodeBook] = {}
        self._state_of: dict[str, int] = {}
        self._nodes_in: dict[int, Crowd] = {}
        self._named: dict[int, NodeBook] = {}
        self._added = 0
        self._shapes: list[Shape] = []
        self._shape_of: dict[tuple[object, ...], int] = {}
        self._states = States(_ACCELERATORS)
        self._successors: dict[Demand, Successors] = {}
        self._history = History()
        self._worth = Worth(Classes([], []))
        self._choices_until_prices = 0

    # nodes

    def add(self, node: Node) -> None:
        before = self._books.get(node.id)
        if before is not None:
            if not before.is_empty:
                raise ValueError(f"node {node.id} is in use: first give back what is taken of it")
            self.remove(node.id)
        if node.accelerators > self._states.accelerators:
            self._start_over(node.accelerators)
        key = shape_key(node)
        shape = self._shape_of.get(key)
        if shape is None:
            shape = self._shape_of[key] = len(self._shapes)
            self._shapes.append(Shape(node))
            self._successors = {}  # each knows the shapes there were
        book = self._books[node.id] = self._named[self._added] = NodeBook(node)
        book.shape, book.number = shape, self._added
        self._added += 1
        if node.is_schedulable:
            self._shapes[shape].nodes += 1
        self._enter(node.id)
        self._choices_until_prices = 0

    def remove(self, node_id: str) -> None:
        book = self._books[node_id]
        self._leave(node_id)
        if book.node.is_schedulable:
            self._shapes[book.shape].nodes -= 1
        del self._books[node_id], self._named[book.number]
        self._choices_until_prices = 0

    def free(self, node_id: str) -> Free:
        return self._books[node_id].free()

    # demands

    def observe(self, demand: Demand) -> None:
        self._history.add(demand)

    def choose(self, demand: Demand, among: Iterable[str] | None = None) -> Spot | None:
        self._learn()
        first: dict[int, int] | None = None
        if among is not None:
            first = {}
            books = (book for name in among if (book := self._books[name]).node.is_schedulable)
            for book in sorted(books, key=lambda book: book.number):
                first.setdefault(self._state_of[book.node.id], book.number)
        candidates = self._active() if first is None else np.array(sorted(first), dtype=np.int64)
        if not len(candidates):
            return None
        found = self._best(demand, candidates, first)
        if found is None:
            return None
        number, level = found
        book = self._named[number]
        return Spot(book.node.id, book.indexes(demand, level))

    def look_again(self) -> None:
        self._choices_until_prices = 0

    def take(self, spot: Spot, demand: Demand) -> None:
        self._books[spot.node_id].take(spot, demand)
        self._move(spot.node_id)

    def give_back(self, spot: Spot, demand: Demand) -> None:
        self._books[spot.node_id].give_back(spot, demand)
        self._move(spot.node_id)

    # inside

    def _best(self, demand: Demand, candidates: Ids, first: dict[int, int] | None) -> tuple[int, int] | None:
        """The number of the node to place it on, and the level of the accelerators to take.

        `first`: the first node of each candidate; None: of all that are in it. Of equals the first node is taken, so
        that nothing depends on what was tried before.
        """
        states = self._states
        ways = self._ways(demand)
        ways.look_at(states, candidates)
        allowed = np.zeros(states.size, dtype=np.bool_)
        allowed[candidates] = True
        usable = np.flatnonzero(allowed[ways.sources])
        if not len(usable):
            return None
        sources = ways.sources[usable]
        scores = self._worth.gains(states, sources, ways.targets[usable]) - ways.levels[usable] * TIGHTER
        penalties = self._worth.penalties(ways.fits_shape, demand.accelerators * demand.milli)
        if penalties is not None:
            scores -= penalties[states.rows[sources, 0]]
        best = usable[np.flatnonzero(scores == scores.max())]
        found = []
        for source, level in zip(ways.sources[best].tolist(), ways.levels[best].tolist(), strict=True):
            found.append((self._nodes_in[source].first() if first is None else first[source], level))
        return min(found)

    def _ways(self, demand: Demand) -> Successors:
        ways = self._successors.get(demand)
        if ways is None:
            if len(self._successors) >= MAX_DEMANDS:
                self._successors = {}
            fits: Flags = np.array([holds(shape.example, demand) for shape in self._shapes], dtype=np.bool_)
            ways = self._successors[demand] = Successors(demand, fits)
        return ways

    def _learn(self) -> None:
        """Learns of demands where there is news, and looks at the prices again from time to time."""
        if self._history.is_news:
            self._worth = Worth(self._history.learn(), is_worth_compiling=len(self._books) >= COMPILED_FROM_NODES)
            self._choices_until_prices = 0
        if self._states.size > MAX_STATES:
            self._start_over(self._states.accelerators)
        if self._choices_until_prices == 0:
            self._choices_until_prices = PRICE_AGAIN
            self._worth.price(self._states, self._active(), self._shapes)
        self._choices_until_prices -= 1

    def _active(self) -> Ids:
        active = np.fromiter(self._nodes_in, dtype=np.int64, count=len(self._nodes_in))
        active.sort()
        return active

    def _move(self, node_id: str) -> None:
        self._leave(node_id)
        self._enter(node_id)

    def _enter(self, node_id: str) -> None:
        book = self._books[node_id]
        row = self._states.row_of(book.shape, book.cpu_milli, book.memory_mib, book.left)
        state = int(self._states.ids(row[None, :])[0])
        self._state_of[node_id] = state
        if book.node.is_schedulable:
            there = self._nodes_in.get(state)
            if there is None:
                there = self._nodes_in[state] = Crowd()
            there.add(book.number)
            self._states.nodes[state] += 1

    def _leave(self, node_id: str) -> None:
        state, book = self._state_of.pop(node_id), self._books[node_id]
        if book.node.is_schedulable:
            there = self._nodes_in[state]
            there.remove(book.number)
            self._states.nodes[state] -= 1
            if not len(there):
                del self._nodes_in[state]

    def _start_over(self, accelerators: int) -> None:
        """Forgets the states that no node is in, and what was known of them."""
        self._states = States(accelerators)
        self._successors = {}
        self._nodes_in = {}
        self._worth = Worth(self._worth.classes, is_worth_compiling=self._worth.is_worth_compiling)
        self._choices_until_prices = 0
        for node_id in self._books:
            self._enter(node_id)
