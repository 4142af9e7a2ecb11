"""The choice of a replica."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.route import choose


class Replica(msgspec.Struct):
    in_flight: int
    slots: int = 4
    paused_until_seconds: float = 0.0


loads = st.lists(st.builds(Replica, st.integers(0, 9), st.integers(1, 4), st.sampled_from([0.0, 10.0])), max_size=9)


@given(replicas=loads, turn=st.integers(0, 100), excluded=st.sets(st.integers(0, 9)))
def test_no_replica_left_out_is_better(replicas: list[Replica], turn: int, excluded: set[int]) -> None:
    chosen = choose(replicas, now=5.0, turn=turn, excluded=excluded)
    left = [index for index in range(len(replicas)) if index not in excluded]
    if not left:
        assert chosen is None
        return
    assert chosen in left
    ranks = {i: (replicas[i].paused_until_seconds > 5.0, replicas[i].in_flight / replicas[i].slots) for i in left}
    assert ranks[chosen] == min(ranks.values())


def test_ties_rotate() -> None:
    replicas = [Replica(1), Replica(1), Replica(1)]
    assert Counter(choose(replicas, now=0, turn=turn) for turn in range(9)) == {0: 3, 1: 3, 2: 3}


def test_a_replica_that_just_failed_is_used_only_when_there_is_no_other() -> None:
    replicas = [Replica(0, paused_until_seconds=9), Replica(4)]
    assert choose(replicas, now=5, turn=0) == 1
    assert choose(replicas, now=10, turn=0) == 0
    assert choose(replicas, now=5, turn=0, excluded=[1]) == 0
