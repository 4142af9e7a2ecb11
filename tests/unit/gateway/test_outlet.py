"""Outlets one behind the other."""

from cloudcrest.gateway.outlet import chain
from cloudcrest.kernel.errors import CloudcrestError, EngineFault


class Marking:
    """Writes its letter behind every event, keeps the last one back, and is over after `most` of them."""

    def __init__(self, letter: bytes, most: int = 100) -> None:
        self._letter = letter
        self._most = most
        self._kept = b""
        self.is_over = False

    def answer(self, body: bytes) -> bytes:
        return body + self._letter

    def events(self, events: bytes) -> bytes:
        out, self._kept = self._kept, events + self._letter
        self._most -= 1
        self.is_over = self._most <= 0
        return out

    def end(self) -> bytes:
        return self._kept + b"|"

    def error(self, error: CloudcrestError) -> bytes:
        return self._letter + error.message.encode()


def test_there_is_none_without_outlets() -> None:
    assert chain(()) is None


def test_a_lone_outlet_stands_for_itself() -> None:
    only = Marking(b"a")
    assert chain([only]) is only


def test_each_gets_what_the_one_before_it_lets_out() -> None:
    outlet = chain([Marking(b"a"), Marking(b"b")])
    assert outlet is not None
    assert outlet.answer(b"-") == b"-ab"
    assert [outlet.events(event) for event in (b"1", b"2", b"3")] == [b"", b"", b"1ab"]
    assert outlet.end() == b"2ab" + b"3a|b" + b"|"


def test_the_one_next_to_the_client_tells_of_errors() -> None:
    outlet = chain([Marking(b"a"), Marking(b"b")])
    assert outlet is not None
    assert outlet.error(EngineFault("gone")) == b"bgone"


def test_all_are_over_when_one_is() -> None:
    outlet = chain([Marking(b"a", most=2), Marking(b"b")])
    assert outlet is not None
    outlet.events(b"1")
    assert not outlet.is_over
    outlet.events(b"2")
    assert outlet.is_over
