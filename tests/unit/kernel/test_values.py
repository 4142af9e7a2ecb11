"""Ids, units, clock, errors and the registry."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.clock import ManualClock, SystemClock
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound
from cloudcrest.kernel.ids import encode_ulid, id_maker, new_id
from cloudcrest.kernel.registry import Registry, close_matches
from cloudcrest.kernel.units import format_bytes, parse_bytes

moments = st.integers(min_value=0, max_value=2**48 - 1)
randoms = st.integers(min_value=0, max_value=2**80 - 1)


@given(moments, randoms, moments, randoms)
def test_ulids_sort_as_their_time_and_then_their_randomness(a: int, p: int, b: int, q: int) -> None:
    assert (encode_ulid(a, p) < encode_ulid(b, q)) == ((a, p) < (b, q))
    assert len(encode_ulid(a, p)) == 26


def test_ids_sort_by_creation(clock: ManualClock) -> None:
    make = id_maker(clock)
    ids = []
    for _ in range(20):
        ids.append(make("key"))
        clock.advance(0.001)
    assert ids == sorted(ids)
    assert all(made.startswith("key_") for made in ids)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_id("req") for _ in range(1000)}) == 1000


def test_clocks_are_aware_and_move() -> None:
    assert SystemClock().now().tzinfo is UTC
    assert SystemClock().monotonic() <= SystemClock().monotonic()
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    clock.advance(90)
    assert clock.now() == datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=90)
    assert clock.monotonic() == 90


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("4GiB", 4 * 2**30), ("4GB", 4 * 10**9), (" 1.5 k ", 1500), ("2TiB", 2 * 2**40)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "4XB", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_bytes(text, field="memory")
    assert caught.value.param == "memory"


def test_sizes_are_shown_short() -> None:
    assert format_bytes(98_362_432) == "98.4 MB"
    assert format_bytes(12) == "12 B"
    assert format_bytes(3 * 10**15) == "3000.0 TB"


def test_a_registry_names_what_there_is() -> None:
    registry = Registry("engine", {"b": int, "a": str})
    assert registry["a"] is str
    with pytest.raises(NotFound, match="there is no engine 'c'") as caught:
        registry["c"]
    assert caught.value.hint == "known: a, b"


def test_close_matches_ignore_case() -> None:
    assert close_matches("smollm2", ["SmolLM2-135M", "MiniLM", "Other"]) == ["SmolLM2-135M"]


def test_every_error_has_a_status_code_and_title_of_its_own() -> None:
    kinds = CloudcrestError.__subclasses__()
    assert len({kind.default_code for kind in kinds}) == len(kinds)
    assert len({kind.title for kind in kinds}) == len(kinds)
    error = NotFound("there is no key 'k'", hint="list them")
    assert str(error) == "there is no key 'k' (list them)"
