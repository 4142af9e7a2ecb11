"""Who may be at work at once, so that no one project or organization holds every place. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class Places:
    """`most` at once of all owners, `owner_most` of one."""

    def __init__(self, most: int, owner_most: int) -> None:
        self._most = most
        self._owner_most = owner_most
        self._held: Counter[str] = Counter()

    def is_free(self, owner: str) -> bool:
        """Whether one more of this owner's may begin."""
        return self._held.total() < self._most and self._held[owner] < self._owner_most

    def take(self, owner: str) -> None:
        """Takes a place that is free, until `leave`."""
        self._held[owner] += 1

    def leave(self, owner: str) -> None:
        """Gives a place back."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]

    @contextmanager
    def held(self, owner: str) -> Iterator[None]:
        """A free place while the block runs."""
        self.take(owner)
        try:
            yield
        finally:
            self.leave(owner)


def next_in_turn(waiting: Sequence[tuple[str, str]], running: Iterable[str], room: int) -> list[tuple[str, str]]:
    """Of those that wait (id, project; oldest first), the `room` that begin: each place goes to the oldest of a project
    that has least at work. `running`: the project of each that is at work.
    """
    at_work = Counter(running)
    queues: dict[str, list[tuple[str, str]]] = {}
    for item in waiting:
        queues.setdefault(item[1], []).append(item)
    chosen: list[tuple[str, str]] = []
    while queues and len(chosen) < room:
        # Of equals the one whose oldest has waited longest: the order of `queues`.
        project_id = min(queues, key=lambda name: at_work[name])
        chosen.append(queues[project_id].pop(0))
        at_work[project_id] += 1
        if not queues[project_id]:
            del queues[project_id]
    return chosen
