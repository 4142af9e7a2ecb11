"""Which Ray nodes are ours, what a name means, how Ray is started: all without Ray."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest import __version__
from cloudcrest.compute.fabric.ray.actor import Installation, difference
from cloudcrest.compute.fabric.ray.command import (
    RayStart,
    check_token,
    checked_name,
    host_and_port,
    label_of,
    ray_environment,
)
from cloudcrest.compute.fabric.ray.members import Member, choose, member_of
from cloudcrest.kernel.errors import SetupError

HERE = Installation(__version__, sys.executable, "/data")


def record(**labels: str) -> dict[str, Any]:
    """A node as `ray.nodes()` has it."""
    return {"NodeID": "6f", "NodeManagerAddress": "10.0.0.7", "Alive": True, "Labels": labels}


def member(ray_id: str, name: str, *, is_alive: bool = True) -> Member:
    return Member(ray_id, name, "10.0.0.7", {}, is_alive)


def test_a_node_of_rays_is_ours_by_its_label_and_keeps_its_other_labels() -> None:
    assert member_of(record(team="red")) is None
    assert member_of({**record(), "Labels": None}) is None
    labels = {"cloudcrest.io/node": "gpu1", "cloudcrest.io/zone": "a", "ray.io/node-id": "6f"}
    assert member_of(record(**labels)) == Member("6f", "gpu1", "10.0.0.7", {"cloudcrest.io/zone": "a"}, True)


def test_a_name_keeps_meaning_the_node_that_it_meant_until_that_is_silent() -> None:
    both = [member("1", "a"), member("2", "a")]
    chosen = choose(both, used={"2"}, silent=set())
    assert (chosen.by_name["a"].ray_id, [each.ray_id for each in chosen.others]) == ("2", ["1"])
    assert choose(both, used={"2"}, silent={"2"}).by_name["a"].ray_id == "1"


def test_a_name_whose_nodes_are_dead_is_dead_and_one_that_came_back_is_not() -> None:
    chosen = choose(
        [member("1", "a", is_alive=False), member("2", "b", is_alive=False), member("3", "b")], set(), set()
    )
    assert chosen.dead.keys() == {"a"}
    assert chosen.by_name["b"].ray_id == "3"


_MEMBERS = st.lists(
    st.builds(member, st.uuids().map(str), st.sampled_from("abc"), is_alive=st.booleans()), unique_by=lambda m: m.ray_id
)


@given(_MEMBERS, st.data())
def test_each_live_node_is_used_or_told_of_and_each_name_is_either_alive_or_dead(
    members: list[Member], data: st.DataObject
) -> None:
    ids = st.sets(st.sampled_from([each.ray_id for each in members])) if members else st.just(set[str]())
    chosen = choose(members, used=data.draw(ids), silent=data.draw(ids))
    alive = {each.ray_id for each in members if each.is_alive}
    assert sorted(
        [*(each.ray_id for each in chosen.by_name.values()), *(each.ray_id for each in chosen.others)]
    ) == sorted(alive)
    assert chosen.by_name.keys() | chosen.dead.keys() == {each.name for each in members}
    assert not chosen.by_name.keys() & chosen.dead.keys()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (HERE, None),
        (Installation("0.0.1", sys.executable, "/data"), f"it has Cloudcrest 0.0.1, its cloud {__version__}"),
        (Installation(__version__, "/else/python", "/data"), "install Cloudcrest at the same path"),
        (Installation(__version__, sys.executable, "/more"), "join it with that --data"),
    ],
)
def test_a_node_where_paths_or_versions_differ_says_what_to_do(found: Installation, says: str | None) -> None:
    said = difference(HERE, found)
    assert said is None if says is None else said is not None and says in said


def start(*, is_head: bool) -> list[str]:
    folder = Path("/t")
    made = RayStart("gpu1", "10.0.0.5:6379", "10.0.0.7", folder, folder, folder, folder, {"team": "red"}, is_head)
    return [*made.process().argv]


def test_a_head_listens_where_a_node_joins_and_neither_gives_anything_out() -> None:
    head, node = start(is_head=True), start(is_head=False)
    assert {"--head", "--port=6379", "--include-dashboard=false"} <= {*head}
    assert "--address=10.0.0.5:6379" in node
    assert not {"--head", "--no-monitor"} & {*node}
    for argv in (head, node):
        assert {"--num-cpus=0", "--num-gpus=0", "--disable-usage-stats", "--node-ip-address=10.0.0.7"} <= {*argv}
        assert "--labels=cloudcrest.io/node=gpu1,team=red" in argv
    assert ray_environment(Path("/token"))["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("text", ["x", "=a", "a b=c", "a=b c", "a=b,d=e", "cloudcrest.io/node=me", "a=" + "x" * 64])
def test_a_label_that_ray_could_not_carry_is_refused(text: str) -> None:
    with pytest.raises(SetupError):
        label_of(text)


def test_a_head_is_a_host_and_a_port() -> None:
    assert host_and_port("10.0.0.5:6379") == ("10.0.0.5", 6379)
    assert host_and_port("[::1]:6379") == ("::1", 6379)
    for text in ("10.0.0.5", "head", ":6379", "head:x", "head:65536"):
        with pytest.raises(SetupError, match="is no HOST:PORT"):
            host_and_port(text)


def test_a_file_without_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (b"", b" \n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(SetupError, match="copy the cloud's node-token"):
            check_token(path)
    path.write_text("6" * 64)
    check_token(path)


def test_labels_and_names_that_it_can() -> None:
    assert label_of("cloudcrest.io/zone=a-1") == ("cloudcrest.io/zone", "a-1")
    assert label_of("empty=") == ("empty", "")
    assert checked_name("gpu-1.rack_2") == "gpu-1.rack_2"
    for name in ("", "a b", "a,b", "-a", "x" * 64):
        with pytest.raises(SetupError, match="no name"):
            checked_name(name)
