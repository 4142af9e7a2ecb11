"""The packing, held to a plain one, to the books it keeps, and to itself with and without a compiler."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Spot
from cloudcrest.compute.scheduler.packing import index as index_module
from cloudcrest.compute.scheduler.packing.api import Packing
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.compute.scheduler.packing.classes import Classes, Futures, Shape
from cloudcrest.compute.scheduler.packing.fast_value import by_numba
from cloudcrest.compute.scheduler.packing.index import PackingIndex
from cloudcrest.compute.scheduler.packing.value import by_numpy
from cloudcrest.kernel.units import GIB

TYPES = ("a", "b")


def node(
    name: str, accelerators: int = 4, *, kind: str = "a", cpu: int = 32_000, gib: int = 128, is_schedulable: bool = True
) -> Node:
    return Node(
        name,
        cpu,
        gib * GIB,
        accelerator_type=kind if accelerators else None,
        accelerators=accelerators,
        accelerator_memory_bytes=80 * GIB if accelerators else 0,
        is_schedulable=is_schedulable,
    )


def demand(accelerators: int = 1, milli: int = WHOLE, *, cpu: int = 4_000, gib: int = 8, types: str = "") -> Demand:
    return Demand(cpu, gib * GIB, accelerators, milli, frozenset(types))


nodes = st.builds(
    node,
    st.just(""),
    st.sampled_from([0, 1, 2, 4, 8, 10]),
    kind=st.sampled_from(TYPES),
    cpu=st.sampled_from([8_000, 32_000]),
    gib=st.sampled_from([16, 128]),
    is_schedulable=st.sampled_from([True, True, False]),
)
shares = st.builds(
    demand,
    st.just(1),
    st.sampled_from([100, 250, 500, 730]),
    cpu=st.sampled_from([0, 4_000]),
    types=st.sampled_from(["", "a"]),
)
wholes = st.builds(
    demand, st.sampled_from([0, 1, 2, 4, 8]), cpu=st.sampled_from([500, 4_000]), types=st.sampled_from(["", "b", "ab"])
)
demands = shares | wholes


def cluster(packing: Packing, machines: Sequence[Node]) -> list[str]:
    names = [f"node-{number}" for number in range(len(machines))]
    for name, machine in zip(names, machines, strict=True):
        packing.add(Node(**{field: getattr(machine, field) for field in machine.__struct_fields__} | {"id": name}))
    return names


@settings(deadline=None, max_examples=60)
@given(st.lists(nodes, min_size=1, max_size=6), st.lists(demands, max_size=40), st.data())
def test_what_fits_is_never_declined_and_nothing_is_given_twice(
    machines: list[Node], asked: list[Demand], data: st.DataObject
) -> None:
    packing, plain = PackingIndex(), BestFit()
    names = cluster(packing, machines)
    cluster(plain, machines)
    running: list[tuple[Spot, Demand]] = []
    for wanted in asked:
        packing.observe(wanted)
        if data.draw(st.integers(0, len(running))) > 0:
            spot, before = running.pop(data.draw(st.integers(0, len(running) - 1)))
            packing.give_back(spot, before)
            plain.give_back(spot, before)
        among = data.draw(st.none() | st.lists(st.sampled_from(names), unique=True))
        found = packing.choose(wanted, among)
        assert (found is None) == (plain.choose(wanted, among) is None)
        if found is None:
            continue
        assert among is None or found.node_id in among
        plain.take(found, wanted)  # raises where it is not free
        packing.take(found, wanted)
        running.append((found, wanted))
    assert [packing.free(name) for name in names] == [plain.free(name) for name in names]


def test_the_same_demands_find_the_same_places() -> None:
    def places() -> list[Spot | None]:
        packing = PackingIndex()
        cluster(packing, [node("", 4), node("", 8), node("", 2, kind="b")])
        found = []
        for number in range(60):
            wanted = demand(*((1, 250), (2, WHOLE), (1, WHOLE), (0, WHOLE))[number % 4], cpu=1_000)
            packing.observe(wanted)
            spot = packing.choose(wanted)
            if spot is not None:
                packing.take(spot, wanted)
            found.append(spot)
        return found

    assert places() == places()


def test_without_a_history_the_fullest_place_is_taken() -> None:
    packing = PackingIndex()
    cluster(packing, [node("", 4), node("", 4), node("", 4)])
    packing.take(Spot("node-1", (2,)), demand(1, 500))
    assert packing.choose(demand(1, 500)) == Spot("node-1", (2,))


def test_a_node_that_others_need_whole_is_kept_whole() -> None:
    packing = PackingIndex()
    cluster(packing, [node("", 8), node("", 2), node("", 2)])
    for wanted in [demand(8)] * 8 + [demand(1)] * 8:
        packing.observe(wanted)
    for _ in range(4):
        spot = packing.choose(demand(1))
        assert spot is not None
        assert spot.node_id != "node-0"
        packing.take(spot, demand(1))
    assert packing.choose(demand(8)) == Spot("node-0", tuple(range(8)))


def test_a_type_that_some_can_not_do_without_is_left_to_them() -> None:
    packing = PackingIndex()
    cluster(packing, [node("", 4, kind="a"), node("", 4, kind="b")])
    for wanted in [demand(1, types="b")] * 12 + [demand(1)] * 12:
        packing.observe(wanted)
    spot = packing.choose(demand(1))
    assert spot is not None
    assert spot.node_id == "node-0"


@settings(deadline=None, max_examples=30)
@given(st.lists(nodes, min_size=1, max_size=5), st.lists(demands, min_size=1, max_size=20), st.randoms())
def test_compiled_or_not_states_are_worth_the_same(machines: list[Node], asked: list[Demand], rng: object) -> None:
    unique = list(dict.fromkeys(asked))
    classes = Classes(unique, [asked.count(each) for each in unique])
    classes.meet([Shape(machine) for machine in machines])
    futures = Futures(classes)
    rows = np.zeros((8, 3 + 10), dtype=np.int32)
    for row in rows:
        machine = rng.randrange(len(machines))  # type: ignore[attr-defined]
        row[:3] = machine, rng.randrange(32_000), rng.randrange(131_072)  # type: ignore[attr-defined]
        left = [rng.choice([0, 250, 900, WHOLE]) for _ in range(machines[machine].accelerators)]  # type: ignore[attr-defined]
        row[3 : 3 + len(left)] = sorted(left, reverse=True)
    np.testing.assert_array_equal(by_numpy(classes, futures)(rows), by_numba(classes, futures)(rows))


def test_forgetting_states_changes_nothing_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_STATES", 3)
    packing = PackingIndex()
    (name,) = cluster(packing, [node("", 8)])
    for _ in range(8):
        spot = packing.choose(demand(1, 300))
        assert spot is not None
        packing.take(spot, demand(1, 300))
    assert sorted(packing.free(name).accelerators) == [100, 100, 400, 1000, 1000, 1000, 1000, 1000]


def test_more_than_there_is_can_be_neither_taken_nor_given_back() -> None:
    packing = PackingIndex()
    cluster(packing, [node("", 2)])
    packing.take(Spot("node-0", (0,)), demand(1, 700))
    with pytest.raises(ValueError, match="not so much free"):
        packing.take(Spot("node-0", (0,)), demand(1, 400))
    with pytest.raises(ValueError, match="more would be free"):
        packing.give_back(Spot("node-0", (1,)), demand(1, 400))
    with pytest.raises(ValueError, match="is in use"):
        packing.add(node("node-0", 4))
