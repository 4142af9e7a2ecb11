"""Writes of a round: what comes alone at once, else all of them in order at its end, before what ends a transport."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.rounds import Rounds, RoundTransport


class Wire(asyncio.Transport):
    """A transport that notes in the log of all of them what was done."""

    def __init__(self, name: int, log: list[tuple[int, bytes]]) -> None:
        super().__init__()
        self.name = name
        self.log = log
        self.is_closed = self.fails = False
        self.written: Callable[[], None] = lambda: None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed or self.fails:
            raise RuntimeError("unable to perform operation")
        self.log.append((self.name, bytes(data)))
        self.written()

    def write_eof(self) -> None:
        self.log.append((self.name, b"eof"))

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed


class Worker:
    """Rounds over so many wires, which end when they are told to."""

    def __init__(self, wires: int) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.wires = [Wire(number, self.log) for number in range(wires)]
        self._ends: list[Callable[[], None]] = []
        self.rounds = Rounds(soon=self._ends.append)
        self.transports = [RoundTransport(self.rounds, wire, asyncio.Protocol()) for wire in self.wires]

    def end_round(self) -> None:
        while self._ends:
            self._ends.pop()()


def test_what_comes_alone_goes_out_at_once() -> None:
    worker = Worker(1)
    for number in range(3):
        worker.transports[0].write(b"%d" % number)
        assert len(worker.log) == number + 1
        worker.end_round()


def test_the_others_of_a_round_wait_for_its_end() -> None:
    worker = Worker(2)
    first, second = worker.transports
    first.write(b"a")
    second.write(b"b")
    first.write(b"c")
    assert worker.log == [(0, b"a")]
    worker.end_round()
    assert worker.log == [(0, b"a"), (1, b"b"), (0, b"c")]


def test_the_first_waits_too_where_several_came_just_before() -> None:
    worker = Worker(2)
    first, second = worker.transports
    first.write(b"a")
    second.write(b"b")
    worker.end_round()
    first.write(b"c")
    assert worker.log == [(0, b"a"), (1, b"b")]
    worker.end_round()
    assert worker.log == [(0, b"a"), (1, b"b"), (0, b"c")]
    first.write(b"d")  # the last one came alone
    assert worker.log[-1] == (0, b"d")


@pytest.mark.parametrize("end", [RoundTransport.close, RoundTransport.abort, RoundTransport.write_eof])
def test_what_ends_a_transport_comes_after_its_writes(end: Callable[[RoundTransport], None]) -> None:
    worker = Worker(2)
    first, second = worker.transports
    first.write(b"a")
    second.write(b"b")
    end(second)
    assert worker.log[:2] == [(0, b"a"), (1, b"b")]


def test_a_transport_that_was_lost_meanwhile_is_passed_over() -> None:
    worker = Worker(3)
    for transport in worker.transports:
        transport.write(b"a")
    worker.wires[1].is_closed = True
    worker.end_round()
    assert worker.log == [(0, b"a"), (2, b"a")]


def test_a_write_that_fails_costs_the_others_nothing() -> None:
    worker = Worker(3)
    worker.wires[1].fails = True
    for transport in worker.transports:
        transport.write(b"a")
    worker.end_round()
    assert worker.log == [(0, b"a"), (2, b"a")]
    assert worker.wires[1].is_closed


def test_a_write_that_fails_does_not_bring_later_ones_forward() -> None:
    worker = Worker(3)
    first, failing, last = worker.transports
    worker.wires[0].written = partial(last.write, b"later")
    worker.wires[1].fails = True
    worker.rounds.waiting += [(first, b"a"), (failing, b"a"), (last, b"a")]
    worker.rounds.writes, worker.rounds.is_busy = 1, True
    worker.rounds.flush()
    worker.rounds.flush()
    assert worker.log == [(0, b"a"), (2, b"a"), (2, b"later")]


@given(steps=st.lists(st.one_of(st.integers(0, 2), st.none())))
def test_each_transport_gets_everything_in_order(steps: list[int | None]) -> None:
    worker = Worker(3)
    wanted: list[tuple[int, bytes]] = []
    for number, step in enumerate(steps):
        if step is None:
            worker.end_round()
            assert worker.log == wanted
        else:
            worker.transports[step].write(b"%d" % number)
            wanted.append((step, b"%d" % number))
    worker.end_round()
    assert worker.log == wanted
