"""Limits that several workers share: as one worker would hold them, whoever is killed."""

import copy
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway import shared_limits
from cloudcrest.gateway.admit import Grant, Scope, admit, limit_headers
from cloudcrest.gateway.shared_limits import SharedLimits, create_table
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import LimitExceeded, SetupError, Unavailable

WORKERS = 3
KEY = Limits(requests_per_minute=20, tokens_per_minute=2_000, concurrent_requests=4)
ORGANIZATION = Limits(
    requests_per_minute=30,
    concurrent_requests=6,
    growth_percent_per_minute=50,
)

worker = st.integers(0, WORKERS - 1)
admission = st.tuples(st.just("admit"), worker, st.integers(1, 2_500), st.sampled_from(("key_1", "key_2")))
end = st.tuples(st.just("end"), st.integers(0, 30), st.integers(0, 3_000), st.just(""))
passing = st.tuples(st.just("wait"), st.integers(0, 40), st.just(0), st.just(""))
death = st.tuples(st.just("die"), worker, st.just(0), st.just(""))
unevenness = st.lists(st.floats(-2, 2), min_size=WORKERS, max_size=WORKERS)


class Machine:
    """Several workers on one table, each with scopes of its own, and what was admitted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "limits"
        create_table(self.path, WORKERS)
        self.tables = [self.attach(number) for number in range(WORKERS)]
        self.scopes = [self.fresh_scopes() for _ in range(WORKERS)]
        self.grants: list[tuple[int, str, Grant]] = []
        self.admitted = {"key_1": 0, "key_2": 0}

    def attach(self, number: int) -> SharedLimits:
        return SharedLimits(self.path, worker=number, workers=WORKERS)

    def fresh_scopes(self) -> dict[str, list[Scope]]:
        organization = Scope("organization", "org_1", ORGANIZATION, 0.0)
        return {key: [Scope("key", key, KEY, 0.0), organization] for key in ("key_1", "key_2")}

    def admit(self, number: int, tokens: int, key: str, now: float) -> bool:
        try:
            grant = self.tables[number].admit(self.scopes[number][key], tokens, now)
        except LimitExceeded:
            return False
        self.grants.append((number, key, grant))
        self.admitted[key] += 1
        return True

    def die(self, number: int) -> None:
        """kill -9, and the successor's start: what ran there is over."""
        self.tables[number].close()
        self.tables[number] = self.attach(number)
        self.scopes[number] = self.fresh_scopes()
        self.grants = [held for held in self.grants if held[0] != number]

    def running(self, key: str | None = None) -> int:
        return sum(1 for held in self.grants if key in (None, held[1]))


@contextmanager
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:
        made = Machine(Path(folder))
        yield made
        for table in made.tables:
            table.close()


def test_what_a_dead_worker_ran_holds_up_nobody_before_its_successor_is_there() -> None:
    with machine() as m:
        assert [m.admit(number, 1, "key_1", 0.0) for number in (0, 0, 1, 2)] == [True] * 4
        assert not m.admit(0, 1, "key_1", 0.0)
        m.tables[1].close()
        assert m.admit(0, 1, "key_1", 0.0)
        assert not m.admit(0, 1, "key_1", 0.0)
        m.tables[1] = m.attach(1)
        assert not m.admit(1, 1, "key_1", 0.0)


class Lone:
    """A lone worker that hears of all ends at once when it next admits, and that a refusal leaves as it was."""

    def __init__(self, scopes: dict[str, list[Scope]]) -> None:
        self.scopes = scopes
        self.running: list[tuple[str, int]] = []
        self.corrections = {"key_1": 0, "key_2": 0}

    def admit(self, tokens: int, key: str, now: float) -> tuple[bool, bytes]:
        tried = copy.deepcopy(self.scopes)
        bucket = tried[key][0].tokens
        bucket.correct(self.corrections[key])
        try:
            admit(tried[key], tokens, now)
        except LimitExceeded:
            return False, limit_headers(tried[key], now)
        self.scopes = tried
        self.running.append((key, tokens))
        self.corrections[key] = 0
        return True, limit_headers(tried[key], now)

    def end(self, at: int, used_tokens: int) -> None:
        key, tokens = self.running.pop(at)
        self.corrections[key] += tokens - used_tokens
        for scope in self.scopes[key]:
            scope.concurrent -= 1


@pytest.mark.skipif(not hasattr(Scope.set_limits, "__code__"), reason="what is compiled cannot be copied")
@settings(deadline=None)  # each example makes a table on disk
@given(steps=st.lists(st.one_of(admission, end, passing), max_size=80))
def test_several_workers_decide_as_a_lone_one_would(steps: list[tuple[str, int, int, str]]) -> None:
    with machine() as several:
        lone = Lone(several.fresh_scopes())
        now = 0.0
        for kind, number, tokens, key in steps:
            if kind == "wait":
                now += number / 2
            elif kind == "end" and lone.running:
                at = number % len(lone.running)
                lone.end(at, tokens)
                several.grants.pop(at)[2].settle(tokens)
            elif kind == "admit":
                is_admitted, headers = lone.admit(tokens, key, now)
                assert several.admit(number, tokens, key, now) is is_admitted
                assert limit_headers(several.scopes[number][key], now) == headers


@settings(deadline=None)
@given(steps=st.lists(st.one_of(admission, end, passing, death), max_size=120), skews=unevenness)
def test_no_order_of_workers_deaths_and_clocks_exceeds_a_limit(
    steps: list[tuple[str, int, int, str]], skews: list[float]
) -> None:
    with machine() as several:
        now = 10.0
        for kind, number, tokens, key in steps:
            if kind == "wait":
                now += number / 2
            elif kind == "end" and several.grants:
                several.grants.pop(number % len(several.grants))[2].settle(tokens)
            elif kind == "die":
                several.die(number)
            elif kind == "admit":
                several.admit(number, tokens, key, now + skews[number])
            passed = now + max(skews) - (10.0 + min(skews))
            for name, count in several.admitted.items():
                assert count <= 20 + passed * 20 / 60 + 1e-6
                assert several.running(name) <= 4
            assert sum(several.admitted.values()) <= 30 + passed * 30 / 60 + 1e-6
            assert several.running() <= 6


def test_what_a_killed_worker_held_is_free_once_its_successor_is_there() -> None:
    with machine() as several:
        assert [several.admit(number % 2, 1, "key_1", 0.0) for number in range(5)] == [True] * 4 + [False]
        several.die(0)
        assert several.running() == 2
        assert [several.admit(2, 1, "key_1", 0.0) for _ in range(3)] == [True, True, False]


def test_changed_limits_hold_for_every_worker() -> None:
    with machine() as several:
        for _ in range(2):
            assert several.admit(0, 1, "key_1", 0.0)
        for scopes in several.scopes[1:]:
            scopes["key_1"][0].set_limits(Limits(requests_per_minute=10, concurrent_requests=4), 0.0)
        assert several.admit(1, 1, "key_1", 0.0)
        requests = several.scopes[1]["key_1"][0].requests
        assert requests.level == pytest.approx(18 / 2 - 1)
        several.scopes[2]["key_1"][0].set_limits(Limits(concurrent_requests=4), 0.0)
        assert several.admit(2, 1, "key_1", 0.0)
        assert not several.admit(2, 1, "key_1", 0.0)


def test_a_request_without_limits_needs_no_table() -> None:
    with machine() as several:
        several.tables[0].admit([], 5, 0.0).settle(3)


def test_more_scopes_than_rows_share_them_as_they_fall_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "SETS", 1)
    with machine() as several:
        table = several.tables[0]
        scopes = [Scope("key", f"key_{number}", Limits(requests_per_minute=60), 0.0) for number in range(40)]
        grants = [table.admit([scope], 1, 0.0) for scope in scopes[:16]]
        with pytest.raises(Unavailable, match="too many limits"):
            table.admit([scopes[16]], 1, 0.0)
        with pytest.raises(Unavailable):  # their buckets are full again, but they run
            table.admit([scopes[16]], 1, 10.0)
        grants[3].settle(1)
        table.admit([scopes[16]], 1, 10.0)
        for grant in grants[:3]:
            grant.settle(1)
        assert [table.admit([scope], 1, 20.0) for scope in scopes[17:20]]
        with pytest.raises(Unavailable):
            table.admit([scopes[20]], 1, 20.0)


def test_a_scope_whose_row_became_anothers_finds_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "SETS", 1)
    limits = Limits(requests_per_minute=60, concurrent_requests=1)
    with machine() as several:
        table = several.tables[0]
        first = [Scope("key", f"key_{number}", limits, 0.0) for number in range(16)]
        second = [Scope("key", f"other_{number}", limits, 0.0) for number in range(16)]
        for scope in first:
            table.admit([scope], 1, 0.0).settle(1)
        grants = [table.admit([scope], 1, 10.0) for scope in second]
        with pytest.raises(Unavailable):
            table.admit([first[3]], 1, 20.0)
        grants[7].settle(1)
        again = table.admit([first[3]], 1, 20.0)
        assert first[3].row == second[7].row
        for scope in (first[3], *second[:7], *second[8:]):
            with pytest.raises(LimitExceeded, match="1 concurrent requests"):
                table.admit([scope], 1, 20.0)
        again.settle(1)
        table.admit([second[7]], 1, 30.0).settle(1)


def test_a_worker_that_stands_still_with_the_lock_stops_admissions_for_a_moment_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_limits, "LOCK_PATIENCE_SECONDS", 0.01)
    with machine() as several:
        fd = os.open(several.path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        for _ in range(2):
            with pytest.raises(Unavailable, match="limits cannot be checked"):
                several.admit(0, 1, "key_1", 0.0)
        os.close(fd)  # as its death would
        assert several.admit(0, 1, "key_1", 0.0)


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    create_table(tmp_path / "run" / "limits", 2)
    with pytest.raises(SetupError, match="no table of limits for 3 workers"):
        SharedLimits(tmp_path / "run" / "limits", worker=0, workers=3)
    with pytest.raises(SetupError, match="cannot be opened"):
        SharedLimits(tmp_path / "none", worker=0, workers=3)
