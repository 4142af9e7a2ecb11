"""What states are worth, by what was learned of demands, and by the prices of the moment."""

import numpy as np

from cloudcrest.compute.scheduler.packing.classes import Classes, Flags, Floats, Futures, Shape
from cloudcrest.compute.scheduler.packing.prices import Groups, Prices, penalties, prices
from cloudcrest.compute.scheduler.packing.states import Ids, States
from cloudcrest.compute.scheduler.packing.value import valuation

LEFT_WEIGHT = 1 / 8000
"""Of what stays free on the node, in thousandths: between equals, the fuller one is taken."""


class Worth:
    """The worth of each state: its value alone, and its slots for those who need several accelerators at once."""

    def __init__(self, classes: Classes, *, is_worth_compiling: bool = False) -> None:
        self.classes = classes
        self.is_worth_compiling = is_worth_compiling
        self._groups = Groups(classes)
        futures = Futures(classes) if len(classes) else None
        self._value = None if futures is None else valuation(classes, futures, is_worth_compiling=is_worth_compiling)
        self._values: Floats = np.zeros(0)
        self._slots: Floats = np.zeros((0, len(self._groups.counts)))
        self._worth: Floats = np.zeros(0)
        self._is_known: Flags = np.zeros(0, dtype=np.bool_)
        self._slot_worth: Floats = np.zeros(len(self._groups.counts))
        self._prices: Prices | None = None

    def price(self, states: States, active: Ids, shapes: list[Shape]) -> None:
        """Sets the prices by what is free now."""
        self.classes.meet(shapes)
        self._value_of(states, active)
        capacity = np.array([shape.nodes * shape.example.accelerators * 1000.0 for shape in shapes])
        nodes = states.nodes[active]
        free: Floats = np.bincount(
            states.rows[active, 0], weights=nodes * states.left[active], minlength=len(shapes)
        ).astype(np.float64)
        self._prices = prices(
            self.classes, self._groups, capacity=capacity, free=free, slots=nodes @ self._slots[active]
        )
        self._slot_worth = self._prices.slot_worth
        self._worth = self._values + self._slots @ self._slot_worth

    def gains(self, states: States, sources: Ids, targets: Ids) -> Floats:
        """What placing from these to those states changes."""
        self._value_of(states, np.concatenate([sources, targets]))
        gains: Floats = self._worth[targets] - self._worth[sources] - states.left[targets] * LEFT_WEIGHT
        return gains

    def penalties(self, fits_shape: Flags, size: int) -> Floats | None:
        """By shape, what a demand pays there over the cheapest that would do; None: nothing has a price."""
        if self._prices is None or size == 0:
            return None
        return penalties(self._prices, fits_shape, float(size))

    def _value_of(self, states: States, ids: Ids) -> None:
        if len(self._is_known) < states.size:
            more = max(states.size, 2 * len(self._is_known)) - len(self._is_known)
            self._values = np.concatenate([self._values, np.zeros(more)])
            self._slots = np.concatenate([self._slots, np.zeros((more, self._slots.shape[1]))])
            self._worth = np.concatenate([self._worth, np.zeros(more)])
            self._is_known = np.concatenate([self._is_known, np.zeros(more, dtype=np.bool_)])
        unknown = ids[~self._is_known[ids]]
        if not len(unknown):
            return
        unknown = np.unique(unknown)
        self._is_known[unknown] = True
        if self._value is None:
            return
        rows = states.rows[unknown]
        self._values[unknown] = self._value(rows)
        self._slots[unknown] = self._groups.slots(rows)
        self._worth[unknown] = self._values[unknown] + self._slots[unknown] @ self._slot_worth
