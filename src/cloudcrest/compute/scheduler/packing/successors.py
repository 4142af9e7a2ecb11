"""What becomes of a state when a demand is placed in it, in each of the ways that differ."""

import msgspec
import numpy as np

from cloudcrest.compute.scheduler.model import WHOLE, Demand
from cloudcrest.compute.scheduler.packing.books import memory_mib
from cloudcrest.compute.scheduler.packing.classes import Flags, Ints
from cloudcrest.compute.scheduler.packing.states import FIXED, Ids, States


class Successors:
    """Of one demand: from which state to which, and the level of the accelerator that is taken from.

    `seen`: states that were looked at, whether it fits them or not. What no node is in any more is dropped in time.
    """

    def __init__(self, demand: Demand, fits_shape: Flags) -> None:
        self.demand = demand
        self.fits_shape = fits_shape
        self.sources: Ids = np.zeros(0, dtype=np.int64)
        self.targets: Ids = np.zeros(0, dtype=np.int64)
        self.levels: Ids = np.zeros(0, dtype=np.int64)
        self._seen: Flags = np.zeros(0, dtype=np.bool_)

    def look_at(self, states: States, active: Ids) -> None:
        """Adds what follows from those of these states that it has not seen."""
        if len(self._seen) < states.size:
            grown = np.zeros(max(states.size, 2 * len(self._seen)), dtype=np.bool_)
            grown[: len(self._seen)] = self._seen
            self._seen = grown
        new = active[~self._seen[active]]
        if not len(new):
            return
        if len(self.sources) > 4 * len(active) + 64:
            self._drop(states)
        self._seen[new] = True
        rows = states.rows[new]
        demand = self.demand
        fits = (rows[:, 1] >= demand.cpu_milli) & (rows[:, 2] >= memory_mib(demand)) & self.fits_shape[rows[:, 0]]
        step = _ways(rows[fits], demand)
        if not len(step.of):
            return
        sources = new[fits][step.of]
        self.sources = np.concatenate([self.sources, sources])
        self.targets = np.concatenate([self.targets, states.ids(step.rows)])
        self.levels = np.concatenate([self.levels, step.levels])

    def _drop(self, states: States) -> None:
        there = states.nodes[self.sources] > 0
        # A state that comes back is looked at again.
        self._seen[self.sources[~there]] = False
        self.sources, self.targets, self.levels = self.sources[there], self.targets[there], self.levels[there]


class _Ways(msgspec.Struct, frozen=True):
    """`of`: of which of the rows; `rows`: what it becomes; `levels`: what was left of what is taken from."""

    of: Ids
    rows: Ints
    levels: Ids


def _ways(rows: Ints, demand: Demand) -> _Ways:
    left = rows[:, FIXED:]
    count, milli = demand.accelerators, demand.milli
    if count == 0:
        of = np.arange(len(rows))
        return _Ways(of, _taken(rows, demand, left), np.zeros(len(rows), dtype=np.int64))
    if count > 1 or milli == WHOLE:
        of = np.flatnonzero((left >= WHOLE).sum(axis=1) >= count)
        after = left[of].copy()
        after[:, :count] = 0  # the full ones come first
        return _Ways(of, _taken(rows[of], demand, after), np.full(len(of), WHOLE, dtype=np.int64))
    # A share: of accelerators of which as much is left, one stands for all.
    is_last = np.ones_like(left, dtype=np.bool_)
    is_last[:, :-1] = left[:, :-1] != left[:, 1:]
    of, column = np.nonzero(is_last & (left >= milli))
    after = left[of].copy()
    at = np.arange(len(of))
    levels = after[at, column].astype(np.int64)
    after[at, column] -= milli
    return _Ways(of, _taken(rows[of], demand, after), levels)


def _taken(rows: Ints, demand: Demand, left: Ints) -> Ints:
    after = rows.copy()
    after[:, 1] -= demand.cpu_milli
    after[:, 2] -= memory_mib(demand)
    after[:, FIXED:] = -np.sort(-left, axis=1)
    return after
