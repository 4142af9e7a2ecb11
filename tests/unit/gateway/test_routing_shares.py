"""Shares of a name's requests between its deployments, and what stands for a name."""

from collections import Counter
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.conversation import conversation
from cloudcrest.gateway.routing.shares import STICKY_REQUESTS, Shares, home, next_deployment
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.gateway.validate import parse
from cloudcrest.infra.feed import FeedState
from tests.support.gateway_cloud import feed_state, route_document

CHAT = "/v1/chat/completions"


@given(weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0, 10), min_size=1))
def test_every_run_of_requests_keeps_the_shares(weights: dict[str, float]) -> None:
    credit: dict[str, float] = {}
    drawn: Counter[str] = Counter()
    total = sum(weights.values())
    for number in range(1, 301):
        chosen, credit = next_deployment(weights, credit)
        if chosen is None:
            assert total == 0
            return
        drawn[chosen] += 1
        for name, weight in weights.items():
            assert abs(drawn[name] - number * weight / total) <= len(weights)


def test_a_canary_of_one_percent_gets_every_hundredth() -> None:
    credit: dict[str, float] = {}
    turns = []
    for number in range(1_000):
        chosen, credit = next_deployment({"steady": 99, "canary": 1}, credit)
        if chosen == "canary":
            turns.append(number)
    assert len(turns) == 10
    assert {after - before for before, after in pairwise(turns)} == {100}


@given(
    weights=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 1_000), min_size=1),
    wishes=st.lists(st.sampled_from("abcde"), min_size=1, max_size=400),
)
def test_whatever_conversations_wish_shares_hold_within_a_bound(weights: dict[str, int], wishes: list[str]) -> None:
    credit: dict[str, float] = {}
    drawn: Counter[str] = Counter()
    total = sum(weights.values())
    for number, wish in enumerate(wishes, 1):
        chosen, credit = next_deployment(weights, credit, wish)
        assert chosen is not None
        drawn[chosen] += 1
        for name, weight in weights.items():
            ahead = drawn[name] - number * weight / total
            assert ahead <= STICKY_REQUESTS + 1e-6
            assert ahead >= -(len(weights) - 1) * STICKY_REQUESTS - 1e-6


def test_conversations_stay_where_they_are_while_shares_hold() -> None:
    shares = Shares({"steady": 80, "canary": 20})
    drawn: Counter[str] = Counter()
    stayed = 0
    for turn in range(10):
        for number in range(200):
            talk = b"conversation %d" % number
            chosen = shares.turn(("steady", "canary"), talk)
            assert chosen is not None
            drawn[chosen] += 1
            stayed += turn > 0 and chosen == home(shares.weights, talk)
    assert abs(drawn["canary"] - 400) <= STICKY_REQUESTS
    assert stayed / 1_800 > 0.85


@given(st.integers(1, 99))
def test_a_change_of_weights_moves_no_conversation_but_to_who_gained(more: int) -> None:
    for number in range(100):
        talk = b"%d" % number
        before, after = home({"a": 100, "b": 1}, talk), home({"a": 100, "b": 1 + more}, talk)
        assert after in (before, "b")


def test_who_is_not_ready_gives_its_share_to_the_others_and_no_weight_gets_nothing() -> None:
    shares = Shares({"a": 50, "b": 50, "c": 0})
    assert {shares.turn(("a", "c"), b"") for _ in range(10)} == {"a"}
    assert shares.turn(("c",), b"") is None
    assert shares.turn((), b"x") is None


def test_a_conversation_is_known_by_its_beginning() -> None:
    def of(*contents: str) -> bytes:
        roles = ["system", "user", "assistant", "user"]
        messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
        return conversation(parse(CHAT, msgspec.json.encode({"model": "m", "messages": messages})).body)

    assert of("s", "a") == of("s", "a", "b", "c") != of("s", "b")
    embedding = parse("/v1/embeddings", b'{"model":"m","input":"a"}').body
    assert conversation(embedding) == b""
    long = parse("/v1/completions", msgspec.json.encode({"model": "m", "prompt": "a" * 9_000})).body
    assert conversation(long) == b"a" * 2_000


def weighted(*weights: int) -> FeedState:
    """A feed in which `m` has deployments of these weights, each with a replica."""
    state = feed_state([])
    for number, weight in enumerate(weights):
        document = route_document(
            "m", (f"http://127.0.0.1:{number + 1}",), deployment_id=f"dep_{number}", weight=weight
        )
        state.documents["route"][f"dep_{number}"] = msgspec.to_builtins(document)
    return state


def loaded(state: FeedState) -> Snapshot:
    snapshot = Snapshot(lambda: 0.0)
    snapshot.update(state, set(state.documents))
    return snapshot


def test_one_deployment_is_its_name_and_several_are_split() -> None:
    state = weighted(90, 10, 0)
    snapshot = loaded(state)
    split = snapshot.routes["m"].split
    assert split is not None
    drawn = Counter(next(split.in_turn(b"")).document.deployment_id for _ in range(100))
    assert drawn == {"dep_0": 90, "dep_1": 10}
    assert [route.document.deployment_id for route in split.in_turn(b"")][1:] == ["dep_1"]
    assert len(snapshot.deployments["dep_2"].replicas) == 1  # warm
    del state.documents["route"]["dep_0"]
    snapshot.update(state, {"route"})
    assert snapshot.routes["m"] is snapshot.deployments["dep_1"]
    assert snapshot.routes["m"].split is None
    del state.documents["route"]["dep_1"]
    snapshot.update(state, {"route"})
    alone = snapshot.routes["m"]
    assert (alone.replicas, alone.document.unavailable_reason) == ([], "none of its deployments has a weight")
    del state.documents["route"]["dep_2"]
    snapshot.update(state, {"route"})
    assert snapshot.routes == {}


def test_new_replicas_keep_whose_turn_it_is_and_new_weights_count_anew() -> None:
    state = weighted(50, 50)
    snapshot = loaded(state)
    split = snapshot.routes["m"].split
    assert split is not None
    shares = split.shares
    state.documents["route"]["dep_0"] = msgspec.to_builtins(route_document("m", deployment_id="dep_0", weight=50))
    snapshot.update(state, {"route"})
    now = snapshot.routes["m"].split
    assert now is not None
    assert now.shares is shares
    assert [route.document.deployment_id for route in now.in_turn(b"")] == ["dep_1"]
    state.documents["route"]["dep_0"] = msgspec.to_builtins(route_document("m", deployment_id="dep_0", weight=51))
    snapshot.update(state, {"route"})
    changed = snapshot.routes["m"].split
    assert changed is not None
    assert changed.shares is not shares
