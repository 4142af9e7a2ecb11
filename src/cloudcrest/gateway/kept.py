"""What was relayed of a stream, kept for when it has to be counted or carried on."""

from typing import Final

from cloudcrest.gateway.resume import Said

_QUOTE: Final = b'"'


class Run:
    """Events that differ in a word. `words`: one behind the other, each with the quotation mark that ends it.

    `before`: what stands before each word, `after`: from the quotation mark on.
    """

    __slots__ = ("after", "before", "words")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before = before
        self.after = after
        self.words = bytearray()

    @property
    def size_bytes(self) -> int:
        """Of its events, as they came."""
        count = self.words.count(_QUOTE)
        return len(self.words) + count * (len(self.before) + len(self.after) - len(_QUOTE))

    def events(self) -> list[bytes]:
        return [self.before + word + self.after for word in bytes(self.words).split(_QUOTE)[:-1]]


class Kept:
    """The events relayed so far. Above `max_bytes` they are boiled down to what they said, a fiftieth of the size.

    Of events that differ in a word only the words are kept, in one piece of memory: a stream takes turns with many
    others, and finds little of what is its own in the caches.
    """

    __slots__ = ("_pieces", "_run", "_said", "_size_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._said = Said()
        self._pieces: list[bytes | Run] = []
        self._run: Run | None = None
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of those that are not boiled down yet, as they came."""
        return self._size_bytes + (0 if self._run is None else self._run.size_bytes)

    def add(self, events: bytes) -> None:
        """Whole events only. A chunk's framing around them does no harm: its lines are no data.

        Ends the run: not while a passage writes, but after it has refused a read.
        """
        self._end_run()
        self._pieces.append(events)
        self._size_bytes += len(events)
        if self._size_bytes > self.max_bytes:
            self.said()

    def run(self, before: bytes, after: bytes) -> Run:
        """A run to which words are added until something else is. Whoever adds one looks after the bound: `said`."""
        self._end_run()
        run = self._run = Run(before, after)
        self._pieces.append(run)
        return run

    def text(self) -> str:
        """The text generated so far, of every choice."""
        return self.said().text

    def said(self) -> Said:
        """What the client was told so far."""
        for piece in self._pieces:
            for events in piece.events() if isinstance(piece, Run) else [piece]:
                for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
                    self._said.add(event)
        self._pieces.clear()
        self._size_bytes = 0
        if self._run is not None:  # it goes on
            self._run.words.clear()
            self._pieces.append(self._run)
        return self._said

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._size_bytes += run.size_bytes
            if not run.words:
                self._pieces.pop()
