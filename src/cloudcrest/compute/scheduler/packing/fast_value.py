"""The same as `value.by_numpy`, compiled."""

from typing import Any

import numba
import numpy as np

from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.scheduler.packing.classes import Classes, Floats, Futures, Ints
from cloudcrest.compute.scheduler.packing.value import _NOTHING, _WITHOUT, Valuation


def by_numba(classes: Classes, futures: Futures) -> Valuation:
    """A state at a time, each sequence until nothing is left."""
    kinds = np.stack([classes.cpu, classes.memory, classes.accelerators, classes.milli])

    def value(rows: Ints) -> Floats:
        result: Floats = _values(np.ascontiguousarray(rows), futures.classes, classes.fits, kinds)
        return result

    return value


@numba.njit(nogil=True)
def _values(rows: Any, futures: Any, fits: Any, kinds: Any) -> Any:
    values = np.zeros(rows.shape[0])
    for row in range(rows.shape[0]):
        placed = 0
        for sequence in range(futures.shape[0]):
            placed += _placed(rows[row], futures[sequence], fits[:, rows[row, 0]], kinds)
        values[row] = placed / futures.shape[0]
    return values


@numba.njit(nogil=True)
def _placed(row: Any, future: Any, fits: Any, kinds: Any) -> Any:
    cpu, memory, accelerators, milli = kinds
    cpu_left, memory_left, left = row[1], row[2], row[3:].copy()
    total = left.sum()
    placed = 0
    for window in range(future.shape[0]):
        if total <= 0:
            break
        best, chosen, at = _NOTHING, -1, -1
        for kind in future[window]:
            if cpu_left < cpu[kind] or memory_left < memory[kind] or not fits[kind]:
                continue
            score, place = _score(left, accelerators[kind], milli[kind])
            if score < best:
                best, chosen, at = score, kind, place
        if chosen < 0:
            continue
        cpu_left -= cpu[chosen]
        memory_left -= memory[chosen]
        _take(left, accelerators[chosen], milli[chosen], at)
        placed += accelerators[chosen] * milli[chosen]
        total -= accelerators[chosen] * milli[chosen]
    return placed


@numba.njit(nogil=True)
def _score(left: Any, accelerators: Any, milli: Any) -> Any:
    if accelerators == 0:
        return _WITHOUT, -1
    if accelerators == 1:
        at = -1
        for place in range(left.shape[0]):
            if left[place] >= milli and (at < 0 or left[place] < left[at]):
                at = place
        return (_NOTHING, -1) if at < 0 else (left[at] - milli, at)
    usable = 0
    for place in range(left.shape[0]):
        if left[place] >= WHOLE:
            usable += 1
    return (-accelerators, -1) if usable >= accelerators else (_NOTHING, -1)


@numba.njit(nogil=True)
def _take(left: Any, accelerators: Any, milli: Any, at: Any) -> None:
    if accelerators == 1:
        left[at] -= milli
    elif accelerators > 1:
        missing = accelerators
        for place in range(left.shape[0]):
            if missing and left[place] >= WHOLE:
                left[place] -= WHOLE
                missing -= 1
