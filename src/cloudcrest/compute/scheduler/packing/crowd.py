"""Who is in a state: any number come and go, and the first of them in a fixed order is always at hand."""

from heapq import heapify, heappop, heappush

_SLACK = 64


class Crowd:
    """Numbers. Those that left stay in the heap until they come up, or until they are most of it."""

    __slots__ = ("_heap", "_there")

    def __init__(self) -> None:
        self._there: set[int] = set()
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._there)

    def __contains__(self, number: int) -> bool:
        return number in self._there

    def add(self, number: int) -> None:
        self._there.add(number)
        heappush(self._heap, number)
        if len(self._heap) > 2 * len(self._there) + _SLACK:
            self._heap = list(self._there)
            heapify(self._heap)

    def remove(self, number: int) -> None:
        """Raises `KeyError` where it is not there."""
        self._there.remove(number)

    def first(self) -> int:
        """The least. Raises `IndexError` where nobody is there."""
        while self._heap[0] not in self._there:
            heappop(self._heap)
        return self._heap[0]
