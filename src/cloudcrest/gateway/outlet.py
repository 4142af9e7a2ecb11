"""What an answer passes on its way out where it does not go as the engine wrote it: translated, guarded, or parsed.

Relays speak one dialect, OpenAI's: a whole answer is one JSON document, a stream is `chat.completion.chunk` events and
`[DONE]`. An outlet makes of that what its client is to get. It is pure and of one answer; retries, resumes, fallbacks,
budgets and usage know nothing of it, as they happen before it. An answer without outlets passes untouched.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from cloudcrest.kernel.errors import CloudcrestError


class Outlet(Protocol):
    """One answer's. Either `answer` is called, or `events` any number of times and then `end` or `error`."""

    is_over: bool
    """Nothing more of this stream is to go out: its engine can be stopped. What it wrote last was a whole ending."""

    def answer(self, body: bytes) -> bytes:
        """A whole answer in JSON."""

    def events(self, events: bytes) -> bytes:
        """Whole events of a stream, and what can go out now; empty: nothing yet."""

    def end(self) -> bytes:
        """The stream is whole: what was kept back, and the ending where the dialect has one after `[DONE]`."""

    def error(self, error: CloudcrestError) -> bytes:
        """The stream, already begun, ends with an error: as this client is told of it."""


MakeOutlet = Callable[[str], Outlet]
"""Makes the outlet of a request's answer, by the request's id. Each attempt at an answer gets a new one."""


class Chain:
    """Outlets one behind the other: the first is next to the engine, the last next to the client."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self._outlets = outlets
        self.is_over = False

    def answer(self, body: bytes) -> bytes:
        for outlet in self._outlets:
            body = outlet.answer(body)
        return body

    def events(self, events: bytes) -> bytes:
        out = self._through(events, self._outlets)
        self.is_over = any(outlet.is_over for outlet in self._outlets)
        return out

    def end(self) -> bytes:
        out = b""
        for index, outlet in enumerate(self._outlets):
            out += self._through(outlet.end(), self._outlets[index + 1 :])
        return out

    def error(self, error: CloudcrestError) -> bytes:
        return self._outlets[-1].error(error)

    def _through(self, events: bytes, outlets: Sequence[Outlet]) -> bytes:
        for outlet in outlets:
            if not events:
                return b""
            events = outlet.events(events)
        return events


def chain(outlets: Sequence[Outlet]) -> Outlet | None:
    """All of them as one; None where there are none, so that the answer passes untouched."""
    if not outlets:
        return None
    return outlets[0] if len(outlets) == 1 else Chain(outlets)
