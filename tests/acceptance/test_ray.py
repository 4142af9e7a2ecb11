"""A cloud over Ray: machines join, serve a real model and run jobs together; one is killed under load, as is Ray."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from bench.over_ray import Load
from bench.stack import Place

from tests.acceptance.tenants import CHAT_MODEL, answered, sign_up
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until

_JOIN = (str(Path(sys.executable).parent / "cloudcrest"), "node", "join")
_JOIN_SECONDS = 90.0
# Three replicas that stream leave agents little time where there are two cores: being slow is not to be being lost.
_ENVIRONMENT = {"CLOUDCREST_JOBS_ISOLATION": "plain", "CLOUDCREST_PLACEMENT_LOST_SECONDS": "8"}


class _RayState(msgspec.Struct):
    ray_address: str


@pytest.fixture(scope="module")
def ray_cloud() -> Iterator[Cloud]:
    """A cloud over Ray, whose own machine stands in zone a."""
    flags = ["--fabric", "ray", "--ray-port", "0", "--node-label", "cloudcrest.io/zone=a"]
    with new_cloud(flags=flags, environment=_ENVIRONMENT) as started:
        started.start()
        yield started


@contextmanager
def joined(cloud: Cloud, *names: str) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Nodes that join, each in a zone of its own name, and are killed in the end."""
    running = {}
    try:
        for name in names:
            argv = [*_JOIN, _address(cloud)]
            argv += ["--data", str(cloud.data), "--name", name, "--label", f"cloudcrest.io/zone={name}"]
            with (cloud.data.parent / f"{name}.output").open("wb") as output:
                running[name] = subprocess.Popen(argv, stdout=output, stderr=output, env=cloud.variables())
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _address(cloud: Cloud) -> str:
    """Where nodes join."""
    return msgspec.json.decode((cloud.data / "run" / "up.json").read_bytes(), type=_RayState).ray_address


def nodes(operator: httpx2.Client) -> dict[str, str]:
    """The states of the nodes."""
    return {node["node"]: node["state"] for node in answered(operator.get("/api/v1/nodes"))["data"]}


def ready(operator: httpx2.Client, *names: str) -> bool:
    states = nodes(operator)
    return all(states.get(name) == "ready" for name in names)


def replicas(operator: httpx2.Client) -> dict[str, str]:
    """The ready chat replicas, and the node of each."""
    deployments = answered(operator.get("/api/v1/deployments"))["data"]
    chat = next(each for each in deployments if each["name"] == CHAT_MODEL)
    return {each["id"]: each["node_id"] for each in chat["replica_states"] if each["state"] == "ready"}


def load_on(cloud: Cloud) -> Load:
    """Streams, four at once."""
    return Load(Place(cloud.base_url, cloud.api_key))


def test_three_nodes_serve_a_model_and_streams_go_on_when_one_is_killed(ray_cloud: Cloud) -> None:
    with ray_cloud.client(ray_cloud.operator_key) as operator, joined(ray_cloud, "b", "c") as running:
        until(partial(ready, operator, "local", "b", "c"), "two have joined", seconds=_JOIN_SECONDS)
        deployments = answered(operator.get("/api/v1/deployments"))["data"]
        chat = next(each["id"] for each in deployments if each["name"] == CHAT_MODEL)
        scaled = {"replicas": {"min": 3, "max": 3}}
        answered(operator.patch(f"/api/v1/deployments/{chat}", json=scaled))
        until(lambda: {*replicas(operator).values()} == {"local", "b", "c"}, "one in each zone", seconds=_JOIN_SECONDS)
        before = replicas(operator)
        with load_on(ray_cloud) as load:
            until(lambda: load.whole >= 4, "streams run", seconds=_JOIN_SECONDS)
            running["b"].kill()
            until(lambda: nodes(operator)["b"] == "not_ready", "the loss is noticed")
            until(lambda: _others(replicas(operator), before) == 1, "a new one is ready", seconds=_JOIN_SECONDS)
            seen = load.whole
            until(lambda: load.whole >= seen + 4, "streams still run", seconds=_JOIN_SECONDS)
        assert load.faults == []
        assert "b" not in replicas(operator).values()

        with load_on(ray_cloud) as load:
            until(lambda: load.whole >= 4, "streams run", seconds=_JOIN_SECONDS)
            kept = replicas(operator)
            killed = [ray_cloud.pid_of(process) for process in ("ray", "fabric")]
            for pid in killed:
                with suppress(ProcessLookupError):  # the fabric process ends with Ray's head by itself
                    os.kill(pid, signal.SIGKILL)
            seen = load.whole
            until(lambda: load.whole >= seen + 4, "streams still run", seconds=_JOIN_SECONDS)
            until(partial(_fabric_answers, ray_cloud), "Ray is back", seconds=_JOIN_SECONDS)
        assert load.faults == []
        assert replicas(operator) == kept, (ray_cloud.data / "logs" / "fabric.log").read_text()[-4000:]


def test_members_of_a_job_run_on_several_nodes_and_go_on_when_one_is_killed(ray_cloud: Cloud) -> None:
    tenant = sign_up(ray_cloud.base_url)
    with (
        closing(tenant.http),
        ray_cloud.client(ray_cloud.operator_key) as operator,
        joined(ray_cloud, "d", "e") as running,
    ):
        until(partial(ready, operator, "local", "d", "e"), "two have joined", seconds=_JOIN_SECONDS)
        code = (
            "import os, pathlib, time; mark = pathlib.Path(os.environ['CLOUDCREST_CHECKPOINTS']) / 'begun'\n"
            "if mark.exists() and os.environ['CLOUDCREST_ATTEMPT'] == '2': raise SystemExit(0)\n"
            "mark.touch(); print('begun', flush=True); time.sleep(600)"
        )
        body: dict[str, Any] = {
            "project_id": tenant.project_id,
            "command": [sys.executable, "-c", code],
            "cpu_milli": 450 * (os.cpu_count() or 1),  # two fit on a node, three do not
            "memory_bytes": 100_000_000,
            "members": 3,
            "spread": "node",
            "has_checkpoints": True,
        }
        job = answered(tenant.http.post("/api/v1/jobs", json=body), 201)["id"]

        def shown() -> dict[str, Any]:
            return answered(tenant.http.get(f"/api/v1/jobs/{job}"))

        until(lambda: shown()["state"] == "running", "it runs", seconds=_JOIN_SECONDS)
        lost = next(place for place in _places(shown()) if place != "local")
        running[lost].kill()
        ended = until(lambda: (found := shown())["ended_at"] is not None and found, "it ended", seconds=_JOIN_SECONDS)
        assert ended
        assert (ended["state"], len(ended["attempts"])) == ("succeeded", 2)
        assert lost not in _places(ended)


def test_joining_without_the_token_or_to_nothing_says_what_to_do(ray_cloud: Cloud) -> None:
    def join(*words: str) -> str:
        ended = subprocess.run(
            [*_JOIN, *words],
            capture_output=True,
            text=True,
            env=ray_cloud.variables(),
            timeout=_JOIN_SECONDS,
            check=False,
        )
        assert ended.returncode != 0
        return ended.stderr

    data = ("--data", str(ray_cloud.data))
    wrong = ray_cloud.data.parent / "wrong-token"
    wrong.write_text("7" * 64)
    says = join(_address(ray_cloud), *data, "--name", "stranger", "--token-file", str(wrong))
    assert f"the cloud at {_address(ray_cloud)} does not take this token (copy its node-token" in says
    wrong.write_text("\n")
    says = join(_address(ray_cloud), *data, "--name", "stranger", "--token-file", str(wrong))
    assert f"there is no token in {wrong}" in says
    assert "leave --address out for 127.0.0.1" in join(_address(ray_cloud), *data, "--address", "192.0.2.1")
    assert "no cloud answers at 127.0.0.1:1" in join("127.0.0.1:1", *data)
    gateway = ray_cloud.base_url.removeprefix("http://")
    assert f"what listens at {gateway} is no Ray head (`cloudcrest up --fabric ray`" in join(gateway, *data)
    assert "there is no file" in join("127.0.0.1:1", "--token-file", "/no/where")
    assert "is no HOST:PORT" in join("head", *data)
    assert "another --name" in join("127.0.0.1:1", *data, "--name", "local")
    assert "is no label" in join("127.0.0.1:1", *data, "--label", "zone a")


def _others(now: dict[str, str], before: dict[str, str]) -> int:
    return len(now.keys() - before.keys())


def _fabric_answers(cloud: Cloud) -> bool:
    """Whether the nodes can be asked for again: `nodes list` shows the last that was heard."""
    log = (cloud.data / "logs" / "fabric.log").read_text().splitlines()
    events = [json.loads(line).get("event") for line in log if line.startswith("{")]
    return (
        events.count("fabric_ready") >= 2
        and "node_answers" in events[len(events) - events[::-1].index("fabric_ready") :]
    )


def _places(job: dict[str, Any]) -> list[str]:
    return [member["node_id"] for member in job["attempts"][-1]["members"]]
