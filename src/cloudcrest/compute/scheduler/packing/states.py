"""States that nodes may be in, each kept once: equal nodes are one state, and what is known of it is known of all.

A row is (shape, CPU in thousandths, memory in MiB, what is left of each accelerator from the most down, 0 where there
is none). Ids are row numbers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloudcrest.compute.scheduler.packing.classes import Floats, Ints

FIXED = 3
"""Columns before the accelerators."""
_FIRST_CAPACITY = 1_024
Ids = NDArray[np.int64]


class States:
    """All states met. `nodes`: how many schedulable nodes are in each; `left`: of all its accelerators together."""

    def __init__(self, accelerators: int) -> None:
        self.accelerators = accelerators
        self.size = 0
        self.rows: Ints = np.zeros((_FIRST_CAPACITY, FIXED + accelerators), dtype=np.int32)
        self.nodes: Ints = np.zeros(_FIRST_CAPACITY, dtype=np.int32)
        self.left: Floats = np.zeros(_FIRST_CAPACITY)
        self._ids: dict[bytes, int] = {}

    def row_of(self, shape: int, cpu_milli: int, memory_mib: int, left: Sequence[int]) -> Ints:
        """The row of a node."""
        row = np.zeros(FIXED + self.accelerators, dtype=np.int32)
        row[:FIXED] = shape, cpu_milli, memory_mib
        row[FIXED : FIXED + len(left)] = sorted(left, reverse=True)
        return row

    def ids(self, rows: Ints) -> Ids:
        """The ids of these rows, new ones included."""
        known = self._ids
        found = [known.get(key, -1) for key in _keys(rows)]
        ids = np.array(found, dtype=np.int64)
        for index in np.flatnonzero(ids < 0):
            ids[index] = self._add(rows[index])
        return ids

    def _add(self, row: Ints) -> int:
        key = row.tobytes()
        known = self._ids.get(key)
        if known is not None:  # twice among the same rows
            return known
        if self.size == len(self.rows):
            self.rows = _longer(self.rows)
            self.nodes = _longer(self.nodes)
            self.left = _longer(self.left)
        self._ids[key] = self.size
        self.rows[self.size] = row
        self.left[self.size] = row[FIXED:].sum()
        self.size += 1
        return self.size - 1


def _keys(rows: Ints) -> Iterable[bytes]:
    data, step = np.ascontiguousarray(rows).tobytes(), rows.shape[1] * rows.itemsize
    return [data[start : start + step] for start in range(0, len(data), step)]


def _longer(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)])
