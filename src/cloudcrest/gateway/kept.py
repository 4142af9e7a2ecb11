"""What was relayed of a stream, kept for when it has to be counted or carried on."""

from cloudcrest.gateway.resume import Said


class Kept:
    """The events relayed so far. Above `max_bytes` they are boiled down to what they said, a fiftieth of the size.

    `parts`: those that are not boiled down yet, always the same list; `size_bytes`: of them.
    """

    __slots__ = ("_said", "max_bytes", "parts", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.parts: list[bytes] = []
        self.size_bytes = 0
        self._said = Said()

    def add(self, events: bytes) -> None:
        """Whole events only. A chunk's framing around them does no harm: its lines are no data."""
        self.parts.append(events)
        self.size_bytes += len(events)
        if self.size_bytes > self.max_bytes:
            self.said()

    def text(self) -> str:
        """The text generated so far, of every choice."""
        return self.said().text

    def said(self) -> Said:
        """What the client was told so far."""
        parts, self.size_bytes = b"".join(self.parts), 0
        self.parts.clear()
        for event in parts.replace(b"\r\n", b"\n").split(b"\n\n"):
            self._said.add(event)
        return self._said
