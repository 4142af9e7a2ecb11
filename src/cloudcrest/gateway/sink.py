"""Who an answer from upstream goes to: as its connection sees them, and as a call with its retries does."""

from typing import Protocol

from cloudcrest.kernel.errors import CloudcrestError

CROSSING_SECONDS = 2.0
"""A kept connection that is lost later than this after it was written to was not closed while it was idle."""


class Sink(Protocol):
    """Who an upstream's answer goes to."""

    def answer_head(self, status: int, head: bytes) -> None:
        """`head` holds the header lines, each after a CRLF."""

    def answer_data(self, data: bytes) -> None: ...

    def answer_end(self) -> None:
        """The answer is whole; the connection is back in its pool."""

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:
        """The connection broke before the answer was whole, or could not be made. `was_reused`: it had been kept, and
        nothing came: where it was written to just now, its other end may have closed it at the same time.
        """

    def upstream_paused(self, is_paused: bool) -> None:
        """The upstream reads the request too slowly, or does so no longer."""


class WholeSink(Protocol):
    """Who takes a usual answer, in place of all that a `Sink` gets of it."""

    def answer_whole(self, body: bytes) -> None:
        """All of an answer with status 200, which came in one read; the connection is back in its pool."""


class CallSink(Protocol):
    """Who the answer goes to. After `call_end` or `call_failed` nothing follows."""

    def call_head(self, status: int, head: bytes) -> None: ...

    def call_data(self, data: bytes) -> None: ...

    def call_end(self) -> None: ...

    def call_answer(self, body: bytes) -> None:
        """All of an answer with status 200 at once, in place of `call_head`, `call_data` and `call_end`."""

    def call_failed(self, error: CloudcrestError) -> None: ...

    def call_restarted(self) -> None:
        """What came so far is void: the request goes to another replica from the start."""

    def call_tick(self) -> None:
        """A few times a second while it is under way: the time to write progress."""

    def call_leaving(self) -> None:
        """The same while its replica is about to be stopped and another is there: the time to go there."""
