"""Writes of a round: the first at once, the others after it in their order, and what ends a transport after them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.rounds import Rounds, RoundTransport


class Wire:
    """A transport that remembers, for all of them together, what was done."""

    def __init__(self, name: int, log: list[tuple[int, bytes]]) -> None:
        self.name = name
        self.log = log
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "a closed transport raises"
        self.log.append((self.name, data))

    def write_eof(self) -> None:
        self.log.append((self.name, b"eof"))

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed


class Ends:
    """Who ends rounds, when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def end(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def wired(count: int) -> tuple[Ends, Rounds, list[Wire], list[RoundTransport], list[tuple[int, bytes]]]:
    ends, log = Ends(), list[tuple[int, bytes]]()
    rounds = Rounds(ends)
    wires = [Wire(number, log) for number in range(count)]
    return ends, rounds, wires, [RoundTransport(rounds, wire) for wire in wires], log  # type: ignore[arg-type]


def test_what_comes_alone_goes_out_at_once() -> None:
    ends, _, _, (only,), log = wired(1)
    for number in range(3):
        only.write(b"%d" % number)
        assert len(log) == number + 1
        ends.end()
    assert len(ends.calls) == 0


def test_the_others_of_a_round_wait_for_its_end() -> None:
    ends, _, _, (first, second), log = wired(2)
    first.write(b"a")
    second.write(b"b")
    first.write(b"c")
    assert log == [(0, b"a")]
    ends.end()
    assert log == [(0, b"a"), (1, b"b"), (0, b"c")]


def test_what_ends_a_transport_comes_after_its_writes() -> None:
    for end in (RoundTransport.close, RoundTransport.abort, RoundTransport.write_eof):
        _, _, _, (first, second), log = wired(2)
        first.write(b"a")
        second.write(b"b")
        end(second)
        assert log[:2] == [(0, b"a"), (1, b"b")]


def test_a_transport_that_was_lost_meanwhile_is_passed_over() -> None:
    ends, _, wires, (first, second, third), log = wired(3)
    first.write(b"a")
    second.write(b"b")
    third.write(b"c")
    wires[1].is_closed = True
    ends.end()
    assert log == [(0, b"a"), (2, b"c")]


def test_a_write_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ends, _, wires, (first, second, third), log = wired(3)

    def fails(_: bytes) -> None:
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(wires[1], "write", fails)
    first.write(b"a")
    second.write(b"b")
    third.write(b"c")
    ends.end()
    assert log == [(0, b"a"), (2, b"c")]
    assert wires[1].is_closed


@given(steps=st.lists(st.one_of(st.integers(0, 2), st.none())))
def test_each_transport_gets_everything_in_order(steps: list[int | None]) -> None:
    ends, _, _, transports, log = wired(3)
    wanted = list[tuple[int, bytes]]()
    for number, step in enumerate(steps):
        if step is None:
            ends.end()
            assert log == wanted
        else:
            transports[step].write(b"%d" % number)
            wanted.append((step, b"%d" % number))
    ends.end()
    assert log == wanted
