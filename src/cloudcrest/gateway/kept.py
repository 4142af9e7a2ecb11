"""What was relayed of a stream, kept for when it has to be counted or carried on."""

from typing import Final

from cloudcrest.gateway.resume import Said

_NOTHING: Final = b""


class Kept:
    """The events relayed so far. Above `max_bytes` they are boiled down to what they said, a fiftieth of the size.

    `size_bytes`: of those that are not boiled down yet, as they came. Of events that differ in a word only the words
    are kept: mostly a fifth of that, and the next read takes the place of the last, which the cache still has.
    """

    __slots__ = ("_after", "_before", "_runs", "_said", "_words", "max_bytes", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._said = Said()
        self._before = self._after = _NOTHING
        self._words: list[bytes] = []
        # What stands before and after each of some words.
        self._runs: list[tuple[bytes, bytes, list[bytes]]] = [(_NOTHING, _NOTHING, self._words)]

    def add(self, events: bytes) -> None:
        """Whole events only. A chunk's framing around them does no harm: its lines are no data."""
        self.add_word(_NOTHING, events, _NOTHING)

    def add_word(self, before: bytes, word: bytes, after: bytes) -> None:
        """The event that has `word` between these two, which are the same objects as long as they are the same."""
        if before is not self._before or after is not self._after:
            self._before, self._after, self._words = before, after, []
            self._runs.append((before, after, self._words))
        self._words.append(word)
        self.size_bytes += len(before) + len(word) + len(after)
        if self.size_bytes > self.max_bytes:
            self.said()

    def text(self) -> str:
        """The text generated so far, of every choice."""
        return self.said().text

    def said(self) -> Said:
        """What the client was told so far."""
        for before, after, words in self._runs:
            for word in words:
                for event in (before + word + after).replace(b"\r\n", b"\n").split(b"\n\n"):
                    self._said.add(event)
        self._words.clear()
        self._runs = [(self._before, self._after, self._words)]
        self.size_bytes = 0
        return self._said
