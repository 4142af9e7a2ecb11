"""What the value of a single node cannot see: shapes that few demands can do without, and nodes that must stay whole.

price of a shape     Σ over restricted kinds that fit it of what will be asked of it ÷ what is free where they fit
pressure of a group  (what will be asked ÷ places there are)³, at most 1; a group: demands of as many accelerators
"""

import msgspec
import numpy as np

from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.scheduler.packing.classes import Classes, Floats, Ints
from cloudcrest.compute.scheduler.packing.states import FIXED

RESTRICTED_BELOW = 0.999
"""A kind is restricted where the shapes it fits have less than this part of all accelerators."""
MOST_PRICE = 2.0
SLOT_WEIGHT = 0.5
PRESSURE_POWER = 3


class Groups:
    """Kinds that need several accelerators, by how many: how many more of a group a state has room for."""

    def __init__(self, classes: Classes) -> None:
        self.counts = sorted({int(count) for count in classes.accelerators if count > 1})
        self.members = [np.flatnonzero(classes.accelerators == count) for count in self.counts]
        self.shares: Floats = np.array([classes.share[members].sum() for members in self.members])
        self._classes = classes

    def slots(self, rows: Ints) -> Floats:
        """(state, group): how many of the group fit, each alone, averaged over its kinds."""
        classes = self._classes
        slots = np.zeros((len(rows), len(self.counts)))
        whole = (rows[:, FIXED:] >= WHOLE).sum(axis=1)
        for group, (count, members) in enumerate(zip(self.counts, self.members, strict=True)):
            some = np.flatnonzero(whole >= count)
            if not len(some):
                continue
            part = rows[some]
            fit = np.broadcast_to((whole[some] // count)[:, None], (len(some), len(members)))
            fit = np.minimum(fit, part[:, 1, None] // np.maximum(1, classes.cpu[members]))
            fit = np.minimum(fit, part[:, 2, None] // np.maximum(1, classes.memory[members]))
            fit = fit * classes.fits[members][:, part[:, 0]].T
            slots[some, group] = fit @ classes.share[members] / self.shares[group]
        return slots


class Prices(msgspec.Struct, frozen=True):
    """`shapes`: of each shape; `free`: whether anything is free there; `pressure`: of each group, in thousandths of
    accelerators for one more slot.
    """

    shapes: Floats
    is_free: np.ndarray
    slot_worth: Floats


def prices(classes: Classes, groups: Groups, *, capacity: Floats, free: Floats, slots: Floats) -> Prices:
    """The prices for what comes next. `capacity` and `free` by shape, `slots` by group, over all nodes."""
    shapes = np.zeros(len(capacity))
    total_free = float(free.sum())
    to_come = total_free / classes.mean_size if classes.mean_size > 0 else 0.0
    fits = classes.fits & (classes.size > 0)[:, None]
    is_restricted = (fits @ capacity < RESTRICTED_BELOW * capacity.sum()) & fits.any(axis=1)
    if is_restricted.any():
        some = fits[is_restricted].astype(np.float64)
        asked = (classes.share * classes.size)[is_restricted] * to_come
        shapes = (asked / np.maximum(some @ free, WHOLE)) @ some
    asked_slots = groups.shares * to_come
    ratio = np.where(slots > 0, asked_slots / np.where(slots > 0, slots, 1.0), 1.0)
    pressure = np.minimum(1.0, ratio) ** PRESSURE_POWER
    worth = SLOT_WEIGHT * WHOLE * pressure * np.array(groups.counts, dtype=np.float64)
    return Prices(shapes, free > 0, worth)


def penalties(prices: Prices, fits_shape: np.ndarray, size: float) -> Floats:
    """By shape, what a demand of this size pays there over the cheapest shape that would do."""
    usable = fits_shape & prices.is_free
    cheapest = float(prices.shapes[usable].min()) if usable.any() else 0.0
    dearer: Floats = size * np.minimum(MOST_PRICE, prices.shapes - cheapest)
    return dearer
