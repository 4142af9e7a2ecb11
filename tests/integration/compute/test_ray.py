"""Real Ray clusters of several nodes on this machine, with mixed chips and labels; nodes, Ray and the driver killed."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from cloudcrest.compute.api import ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.ray.actor import Installation
from cloudcrest.compute.fabric.ray.command import ray_environment
from cloudcrest.compute.fabric.ray.members import Member
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
_SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
_TELL = (
    *(sys.executable, "-c"),
    "import os; print(sorted(item for item in os.environ.items() if item[0].startswith(('ACME', 'OWN', 'RAY'))))",
)


@pytest.fixture
async def cluster(anyio_backend: str) -> AsyncIterator[RayNodes]:
    """Three nodes: one without chips, two with different ones."""
    async with ray_nodes() as made:
        await made.add("local")
        await made.drive()
        await made.ready("local")
        await asyncio.gather(
            made.add("one", accelerators=1, zone="a", disk="fast"), made.add("many", accelerators=8, zone="b")
        )
        await made.ready("local", "one", "many")
        yield made


async def process(cluster: RayNodes, name: str, holds: Callable[[ProcessStatus], bool]) -> ProcessStatus:
    """A process, once something holds of it."""

    async def look() -> ProcessStatus | None:
        return next((each for each in await cluster.fabric.list() if each.id == name and holds(each)), None)

    found = await until_async(look, f"process {name}")
    assert found is not None
    return found


async def names(cluster: RayNodes) -> dict[str, str]:
    """What runs, and on which node."""
    return {each.id: each.node_id for each in await cluster.fabric.list() if each.state == "running"}


async def test_nodes_have_their_chips_and_labels_and_run_what_they_are_given(cluster: RayNodes) -> None:
    nodes = await cluster.facts()
    assert [len(nodes[name].accelerators) for name in ("local", "one", "many")] == [0, 1, 8]
    assert nodes["one"].labels["cloudcrest.io/zone"] == "a"
    assert nodes["one"].labels["cloudcrest.io/disk"] == "fast"
    assert not any(label.startswith("ray.io") for label in nodes["one"].labels)

    await cluster.fabric.start(
        ProcessSpec("tell", _TELL, {"OWN": "1"}, {"kind": "x"}, node_id="many", accelerators=(2, 5))
    )
    told = await process(cluster, "tell", lambda each: each.state == "exited")
    assert told.exit_code == 0
    assert (told.node_id, told.address, told.labels) == ("many", "127.0.0.1", {"kind": "x"})
    assert "('ACME_VISIBLE', '2,5')" in told.log_tail
    assert "('OWN', '1')" in told.log_tail
    assert "RAY_" not in told.log_tail
    await cluster.fabric.stop("tell")
    assert await names(cluster) == {}

    with pytest.raises(InvalidInput, match="there is no node 'other'"):
        await cluster.fabric.start(ProcessSpec("x", _SLEEP, node_id="other"))
    with pytest.raises(InvalidInput, match="cannot run /no/such"):
        await cluster.fabric.start(ProcessSpec("x", ("/no/such",), node_id="one"))


async def test_rays_servers_listen_on_loopback_alone_and_let_nobody_in_without_the_token(
    cluster: RayNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = {
        connection.laddr.ip
        for each in cluster.ray_processes()
        for connection in each.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    other = cluster.folder / "other-token"
    other.write_text("7" * 64)
    assert b"AuthenticationError" in await asked(cluster, RAY_AUTH_TOKEN_PATH=str(other))
    assert b"AuthenticationError" in await asked(cluster, RAY_AUTH_MODE="disabled")
    assert await asked(cluster) == b"let in"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "7" * 64)  # somebody's own, for another cluster
    assert await asked(cluster) == b"let in"


async def asked(cluster: RayNodes, **variables: str) -> bytes:
    """What a program gets to hear that asks the head for its nodes."""
    code = (
        "from ray._raylet import GcsClient\n"
        f"GcsClient(address='{cluster.head}').get_all_node_info(timeout=10)\n"
        "print('let in', end='')"
    )
    environment = {**os.environ, **ray_environment(cluster.token_path), **variables}
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env=environment, stdout=PIPE, stderr=PIPE
    )
    said, complained = await program.communicate()
    return said or complained


async def test_a_killed_node_is_not_ready_and_the_others_go_on(cluster: RayNodes) -> None:
    for name in ("one", "many"):
        await cluster.fabric.start(ProcessSpec(f"on-{name}", _SLEEP, node_id=name))
    assert await names(cluster) == {"on-one": "one", "on-many": "many"}
    await cluster.kill("one")

    async def is_lost() -> bool:
        facts = await cluster.facts()
        return not facts["one"].is_ready and facts["one"].reason is not None

    await until_async(is_lost, "the node is lost", seconds=5.0)
    assert (await cluster.facts())["many"].is_ready
    with pytest.raises(Unavailable, match="'one'"):
        await cluster.fabric.start(ProcessSpec("x", _SLEEP, node_id="one"))

    async def has_left() -> bool:
        return (await cluster.facts())["one"].reason == "it has left the cluster"

    await until_async(has_left, "Ray has noticed", seconds=60.0)
    with pytest.raises(Unavailable, match="it has left the cluster"):
        await cluster.fabric.stop("on-one")  # it may be on its way back
    await cluster.add("one", accelerators=1, zone="a")
    assert (await cluster.ready("one"))["one"].reason is None
    assert await names(cluster) == {"on-many": "many"}
    await cluster.fabric.stop("on-one")  # no error: it is known nowhere


async def test_what_runs_outlives_ray_and_the_driver(cluster: RayNodes) -> None:
    await cluster.fabric.start(ProcessSpec("stays", _SLEEP, node_id="one"))
    pid = (await process(cluster, "stays", lambda each: each.pid is not None)).pid

    await cluster.kill_ray("one")
    await cluster.add("one", accelerators=1, zone="c")

    async def is_back() -> bool:
        assert await names(cluster) == {"stays": "one"}
        facts = (await cluster.facts()).get("one")
        return facts is not None and facts.is_ready and facts.labels["cloudcrest.io/zone"] == "c"

    await until_async(is_back, "the node is back", seconds=60.0)
    assert (await process(cluster, "stays", lambda _: True)).pid == pid

    await cluster.drive()
    await cluster.ready("local", "one", "many")
    assert (await process(cluster, "stays", lambda _: True)).pid == pid


async def test_an_actor_that_ray_cannot_start_is_an_agent_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RaySystemError

    from cloudcrest.compute.fabric.ray.cluster import RayCluster

    def fails(_: Member) -> None:
        raise RaySystemError("the core worker is shutting down")

    ray = RayCluster(Installation("0", sys.executable, "/data"))
    monkeypatch.setattr(ray, "_start_actor", fails)
    with pytest.raises(ConnectionError, match="shutting down"):
        await ray.exchange(Member("6f", "a", "127.0.0.1", {}, is_alive=True))(b"{}\n")


async def test_a_node_that_cannot_run_things_says_why(cluster: RayNodes) -> None:
    await cluster.add("elsewhere", data=cluster.folder / "elsewhere")
    await cluster.add("many", folder="second")

    async def told() -> dict[str, str] | None:
        reasons = {name: facts.reason or "" for name, facts in (await cluster.facts()).items() if not facts.is_ready}
        complete = len(reasons) == 2 and not any("is being asked" in reason for reason in reasons.values())
        return reasons if complete else None

    reasons = await until_async(told, "two say why", seconds=60.0) or {}
    assert "join it with that --data" in reasons.pop("elsewhere")
    assert reasons.popitem()[1] == "another node is called 'many': join it under another name (--name)"
    assert (await cluster.facts())["many"].is_ready
