"""Who may be at work at once, so that no one project holds every place. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class Places:
    """`most` at once of all projects, `project_most` of one."""

    def __init__(self, most: int, project_most: int) -> None:
        self._most = most
        self._project_most = project_most
        self._held: Counter[str] = Counter()

    def is_free(self, project_id: str) -> bool:
        """Whether one more of this project may begin."""
        return self._held.total() < self._most and self._held[project_id] < self._project_most

    @contextmanager
    def held(self, project_id: str) -> Iterator[None]:
        """A place of this project's while the block runs; that it is free is asked before."""
        self._held[project_id] += 1
        try:
            yield
        finally:
            self._held[project_id] -= 1
            if not self._held[project_id]:
                del self._held[project_id]


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
