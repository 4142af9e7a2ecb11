"""What a router keeps of one replica beside its place in the fleet."""

from dataclasses import dataclass
from math import exp

from cloudcrest.gateway.routing.health import Health

_LEARNING_SECONDS = 120.0
DECODE_DRAG = 0.43
DECODE_DRAG_PER_REQUEST = 0.026
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
    """The bookkeeping of one replica beside its place in the fleet."""

    member: Member
    health: Health
    pace: Pace
    slowness: float = 1.0
    in_flight: int = 0
    waiting: int = 0
    waiting_work: float = 0.0
    mark: float = 0.0
    service_seconds: float = 0.0


def drag(replica: Replica) -> float:
    """How much longer a chunk of prefill takes beside the decoding of others, as a share."""
    decoding = replica.in_flight - replica.waiting
    return DECODE_DRAG + DECODE_DRAG_PER_REQUEST * decoding if decoding > 0 else 0.0
