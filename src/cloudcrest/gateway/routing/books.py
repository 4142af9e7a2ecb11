"""What a router keeps of one replica beside its place in the fleet."""

from dataclasses import dataclass
from math import exp
from typing import Final

from cloudcrest.gateway.routing.health import Health

_LEARNING_SECONDS = 120.0
_DECODE_DRAG: Final = 0.43
_DECODE_DRAG_PER_REQUEST: Final = 0.026
"""A decode step beside a chunk of prefill takes this share of the chunk's time, and so much more for each request."""


@dataclass
class Member:
    """A replica as a router is told of it. `slots`: requests it works on at once."""

    name: str
    slots: int


@dataclass
class Pace:
    """Seconds observed for seconds expected, the last few minutes of work counting most."""

    observed_seconds: float = 0.0
    worked_seconds: float = 0.0

    def add(self, observed: float, worked: float, share: float) -> None:
        """`share`: of the pace's time that this replica's is."""
        kept = exp(-observed * share / _LEARNING_SECONDS)
        self.observed_seconds = self.observed_seconds * kept + observed
        self.worked_seconds = self.worked_seconds * kept + worked

    def slowness(self) -> float:
        return self.observed_seconds / self.worked_seconds


@dataclass
class Replica:
    """The bookkeeping of one replica beside its place in the fleet.

    `drag`: how much longer a chunk of prefill takes beside the decoding of others, as a share.
    """

    member: Member
    health: Health
    pace: Pace
    slowness: float = 1.0
    drag: float = 0.0
    in_flight: int = 0
    waiting: int = 0
    waiting_work: float = 0.0
    mark: float = 0.0
    service_seconds: float = 0.0
    is_gone: bool = False

    def set_drag(self) -> None:
        """After a change to the numbers of its requests."""
        decoding = self.in_flight - self.waiting
        self.drag = _DECODE_DRAG + _DECODE_DRAG_PER_REQUEST * decoding if decoding > 0 else 0.0
