"""The lookup tables and who may use what."""

import hashlib
import math
from typing import Any

import msgspec
import pytest

from cloudcrest.gateway.authenticate import authenticate
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.identity.api import Limits
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.errors import CloudcrestError, NotFound
from tests.support.gateway_cloud import KEY, OTHER_KEY, feed_state, key_document, route_document

BEARER = b"Bearer " + KEY.encode()


def loaded(state: FeedState) -> Snapshot:
    snapshot = Snapshot(lambda: 0.0)
    snapshot.update(state, set(state.documents))
    return snapshot


def put(state: FeedState, kind: str, document_id: str, document: Any) -> None:
    state.documents[kind][document_id] = msgspec.to_builtins(document)


def test_a_key_is_found_by_its_hash() -> None:
    snapshot = loaded(feed_state([]))
    assert snapshot.is_loaded
    assert authenticate(snapshot, BEARER, 0).id == "key_test"
    assert authenticate(snapshot, b"bearer  " + KEY.encode(), 0).id == "key_test"


@pytest.mark.parametrize(
    ("authorization", "changes", "code"),
    [
        (None, {}, "invalid_api_key"),
        (b"", {}, "invalid_api_key"),
        (b"Basic abc", {}, "invalid_api_key"),
        (b"Bearer ", {}, "invalid_api_key"),
        (b"Bearer " + b"x" * 1000, {}, "invalid_api_key"),
        (b"Bearer sk-cc-nobody", {}, "invalid_api_key"),
        (b"Bearer \xff\xfe", {}, "invalid_api_key"),
        (BEARER, {"expires_at_unix_seconds": 100}, "invalid_api_key"),
        (BEARER, {"organization_id": "org_gone"}, "invalid_api_key"),
        (BEARER, {"scopes": ("management",)}, "missing_scope"),
    ],
)
def test_who_is_turned_away(authorization: bytes | None, changes: dict[str, Any], code: str) -> None:
    snapshot = loaded(feed_state([], keys=[key_document(**changes)]))
    with pytest.raises(CloudcrestError) as caught:
        authenticate(snapshot, authorization, 100)
    assert caught.value.code == code


def test_a_key_that_was_looked_at_is_looked_at_again_when_the_feed_brings_news() -> None:
    for news in (
        feed_state([], suspended_reason="the balance is used up"),
        feed_state([], keys=[key_document(scopes=("management",))]),
        feed_state([], keys=[key_document(expires_at_unix_seconds=100)]),
        feed_state([], keys=[key_document(OTHER_KEY)]),
    ):
        snapshot = loaded(feed_state([]))
        authenticate(snapshot, BEARER, 0)
        snapshot.update(news, set(news.documents))
        with pytest.raises(CloudcrestError):
            authenticate(snapshot, BEARER, 100)


def test_a_key_that_expires_is_looked_at_each_time() -> None:
    snapshot = loaded(feed_state([], keys=[key_document(expires_at_unix_seconds=100)]))
    assert authenticate(snapshot, BEARER, 99).id == "key_test"
    with pytest.raises(CloudcrestError):
        authenticate(snapshot, BEARER, 100)


def test_a_suspended_organization_is_told_why() -> None:
    snapshot = loaded(feed_state([], suspended_reason="the balance is used up"))
    with pytest.raises(CloudcrestError, match="the balance is used up") as caught:
        authenticate(snapshot, BEARER, 0)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")


def test_a_revoked_key_is_gone_and_a_new_secret_replaces_the_old() -> None:
    state = feed_state([])
    snapshot = loaded(state)
    put(state, "key", "key_test", key_document(key_sha256=hashlib.sha256(b"new").hexdigest()))
    snapshot.update(state, {"key"})
    assert authenticate(snapshot, b"Bearer new", 0).id == "key_test"
    del state.documents["key"]["key_test"]
    snapshot.update(state, {"key"})
    assert [key.id for key in snapshot.keys.values()] == ["key_other"]


def test_only_what_changed_is_converted() -> None:
    state = feed_state([])
    snapshot = loaded(state)
    other = snapshot.keys[hashlib.sha256(OTHER_KEY.encode()).digest()]
    put(state, "key", "key_test", key_document(models=("a",)))
    snapshot.update(state, {"key"})
    assert snapshot.keys[hashlib.sha256(OTHER_KEY.encode()).digest()] is other
    assert authenticate(snapshot, BEARER, 0).models == ("a",)


def test_a_document_that_cannot_be_read_takes_no_other_with_it() -> None:
    state = feed_state([])
    state.documents["key"]["key_bad"] = {"id": "key_bad", "key_sha256": 5}
    state.documents["key"]["key_hex"] = msgspec.to_builtins(key_document(id="key_hex", key_sha256="zz"))
    assert len(loaded(state).keys) == 2


def test_replicas_keep_their_load_across_changes_and_leave_when_they_are_gone() -> None:
    state = feed_state([route_document(urls=("http://127.0.0.1:1", "http://127.0.0.1:2"))])
    snapshot = loaded(state)
    first, second = snapshot.routes["m"].replicas
    first.in_flight = 3
    put(state, "route", "m", route_document(urls=("http://127.0.0.1:1",), unavailable_reason=None))
    snapshot.update(state, {"route"})
    assert snapshot.routes["m"].replicas == [first]
    assert second.is_retired
    assert not first.is_retired


def test_a_replica_that_is_drained_gets_nothing_new_and_may_come_back() -> None:
    state = feed_state([route_document(urls=("http://127.0.0.1:1", "http://127.0.0.1:2"))])
    snapshot = Snapshot(lambda: 50.0, unix_time=lambda: 1_000_050.0)
    snapshot.update(state, set(state.documents))
    route = snapshot.routes["m"]
    first, second = route.replicas
    before = state.documents["route"]["m"]
    drained = before["replicas"][0] | {"leave_by_unix_seconds": 1_000_060.0}
    state.documents["route"]["m"] = before | {"replicas": (drained, before["replicas"][1])}
    snapshot.update(state, {"route"})
    assert (route.replicas, route.leaving) == ([second], [first])
    assert (first.is_retired, first.leave_at, second.leave_at) == (True, 60.0, math.inf)
    state.documents["route"]["m"] = dict(before)
    snapshot.update(state, {"route"})
    assert (route.replicas, route.leaving) == ([first, second], [])
    assert (first.is_retired, first.leave_at) == (False, math.inf)


def test_limits_follow_changes_and_keep_what_runs() -> None:
    state = feed_state([route_document(limits=Limits(concurrent_requests=5))], organization_limits=Limits(1))
    snapshot = loaded(state)
    key, route = authenticate(snapshot, BEARER, 0), snapshot.routes["m"]
    organization, model = snapshot.scopes_of(key, route)
    organization.concurrent = 2
    assert (organization.kind, model.kind) == ("organization", "model")
    state.documents["organization"]["org_1"] = {"id": "org_1", "limits": {"requests_per_minute": 7}}
    snapshot.update(state, {"organization"})
    assert snapshot.scopes_of(key, route)[0] is organization
    assert organization.limits.requests_per_minute == 7
    assert organization.concurrent == 2


def test_models_of_another_organization_do_not_exist() -> None:
    snapshot = loaded(feed_state([route_document("mine", organization_id="org_2"), route_document("ours")]))
    key = authenticate(snapshot, BEARER, 0)
    assert snapshot.visible_models(key) == ["ours"]
    with pytest.raises(NotFound) as caught:
        snapshot.route_for(key, "mine")
    assert "mine" not in (caught.value.hint or "")
    other = authenticate(snapshot, b"Bearer " + OTHER_KEY.encode(), 0)
    assert snapshot.visible_models(other) == ["mine", "ours"]


def test_unknown_models_name_what_comes_close() -> None:
    snapshot = loaded(feed_state([route_document("smollm2-135m-instruct")]))
    with pytest.raises(NotFound, match="did you mean smollm2-135m-instruct"):
        snapshot.route_for(authenticate(snapshot, BEARER, 0), "smollm-135m")
