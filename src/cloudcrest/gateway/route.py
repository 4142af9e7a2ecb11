"""Which replica gets a request: the least loaded ready one. Pure."""

from collections.abc import Collection, Sequence
from typing import Protocol


class Load(Protocol):
    """What routing looks at of a replica: requests at work, room, and until when it is avoided (monotonic seconds)."""

    in_flight: int
    slots: int
    paused_until_seconds: float


def choose(replicas: Sequence[Load], *, now: float, turn: int, excluded: Collection[int] = ()) -> int | None:
    """The index of the replica with the least work per slot; ties rotate with `turn`.

    Replicas that just failed to connect are used only when there is no other. `excluded` were tried already.
    None: nothing is left.
    """
    count = len(replicas)
    if count == 1 and not excluded:
        return 0
    best: int | None = None
    best_rank = (True, 0.0)
    for step in range(count):
        index = (turn + step) % count
        if index in excluded:
            continue
        replica = replicas[index]
        rank = (replica.paused_until_seconds > now, replica.in_flight / replica.slots)
        if best is None or rank < best_rank:
            best, best_rank = index, rank
    return best
