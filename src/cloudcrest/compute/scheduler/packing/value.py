"""What the rest of a node is worth: how much of drawn futures it could still take, on average.

Each future is a sequence of windows of demands. Of a window the demand that leaves least on its tightest accelerator is
placed (several accelerators first, none last); the others go elsewhere. Where nothing fits, the window is passed over.
"""

from collections.abc import Callable

import numpy as np

from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.scheduler.packing.classes import Classes, Floats, Futures, Ints

_NOTHING = 1 << 30
_WITHOUT = 1 << 29
"""How a demand without accelerators compares: after all others."""

Valuation = Callable[[Ints], Floats]
"""Of rows of states (shape, CPU, memory, what is left of each accelerator): thousandths placed, on average."""


def valuation(classes: Classes, futures: Futures, *, is_worth_compiling: bool) -> Valuation:
    """The function over these futures: compiled where that is worth its seconds and its 130 MB, and numba is installed
    (`cloudcrest[fast]`); else by numpy. Both give the same numbers.
    """
    from importlib.util import find_spec

    if not is_worth_compiling or find_spec("numba") is None:
        return by_numpy(classes, futures)
    from cloudcrest.compute.scheduler.packing.fast_value import by_numba

    return by_numba(classes, futures)


def by_numpy(classes: Classes, futures: Futures) -> Valuation:
    """All states and all sequences a step at a time."""
    sequences, windows, width = futures.classes.shape

    def value(rows: Ints) -> Floats:
        states = len(rows)
        lanes = states * sequences
        shape = np.repeat(rows[:, 0], sequences)
        cpu, memory = np.repeat(rows[:, 1], sequences), np.repeat(rows[:, 2], sequences)
        left = np.repeat(rows[:, 3:], sequences, axis=0)
        placed = np.zeros(lanes, dtype=np.int64)
        lane = np.arange(lanes)
        for window in range(windows):
            best = np.full(lanes, _NOTHING, dtype=np.int32)
            chosen = np.full(lanes, -1, dtype=np.int32)
            for place in range(width):
                kind = np.tile(futures.classes[:, window, place], states)
                score = _scores(classes, kind, shape=shape, cpu=cpu, memory=memory, left=left)
                is_better = score < best
                best = np.where(is_better, score, best)
                chosen = np.where(is_better, kind, chosen)
            _place(classes, chosen, cpu=cpu, memory=memory, left=left, lane=lane)
            placed += np.where(chosen >= 0, classes.size[chosen], 0).astype(np.int64)
        values: Floats = placed.reshape(states, sequences).sum(axis=1) / sequences
        return values

    return value


def _scores(classes: Classes, kind: Ints, *, shape: Ints, cpu: Ints, memory: Ints, left: Ints) -> Ints:
    """What a demand leaves on its tightest accelerator; `_NOTHING` where it does not fit."""
    milli, accelerators = classes.milli[kind], classes.accelerators[kind]
    fits = (cpu >= classes.cpu[kind]) & (memory >= classes.memory[kind]) & classes.fits[kind, shape]
    usable = left >= milli[:, None]
    tightest = np.where(usable, left, _NOTHING).min(axis=1, initial=_NOTHING) - milli
    several = np.where(usable.sum(axis=1) >= accelerators, -accelerators, _NOTHING)
    score = np.where(accelerators == 0, _WITHOUT, np.where(accelerators == 1, tightest, several))
    return np.where(fits & (score < _NOTHING - WHOLE), score, _NOTHING).astype(np.int32)


def _place(classes: Classes, chosen: Ints, *, cpu: Ints, memory: Ints, left: Ints, lane: Ints) -> None:
    """Takes what the chosen demands need, in place."""
    is_one = chosen >= 0
    cpu -= np.where(is_one, classes.cpu[chosen], 0)
    memory -= np.where(is_one, classes.memory[chosen], 0)
    accelerators = np.where(is_one, classes.accelerators[chosen], 0)
    single = lane[accelerators == 1]
    if len(single):
        milli = classes.milli[chosen[single]]
        rows = left[single]
        column = np.where(rows >= milli[:, None], rows, _NOTHING).argmin(axis=1)
        left[single, column] -= milli
    several = lane[accelerators > 1]
    if len(several):
        rows = left[several]
        usable = rows >= WHOLE
        rank = np.cumsum(usable, axis=1)
        left[several] = np.where(usable & (rank <= accelerators[several][:, None]), rows - WHOLE, rows)
