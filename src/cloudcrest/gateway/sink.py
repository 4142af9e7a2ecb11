"""Who an answer from upstream goes to, as the connection that it comes by sees them."""

from typing import Protocol


class Sink(Protocol):
    """Who an upstream's answer goes to."""

    def answer_head(self, status: int, head: bytes) -> None:
        """`head` holds the header lines, each after a CRLF."""

    def answer_data(self, data: bytes) -> None: ...

    def answer_end(self) -> None:
        """The answer is whole; the connection is back in its pool."""

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:
        """The connection broke before the answer was whole, or could not be made."""

    def upstream_paused(self, is_paused: bool) -> None:
        """The upstream reads the request too slowly, or does so no longer."""
