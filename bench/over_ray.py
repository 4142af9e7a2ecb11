"""A region of three nodes over Ray, on this machine: what it costs, and how long it takes to come back.

    python -m bench.over_ray [--keep-models DIR] [--rounds N]

Two nodes join a cloud; three replicas serve. Under four streams at once one node is killed (`kill -9`), then Ray's
head. Prints a table and writes bench/out/over_ray.json. All share this machine's cores: what loads takes long.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from bench.stack import MIB, MODEL, OUT, Cloud, Place, machine, memory_bytes, running
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.kernel.errors import CloudcrestError

_CALLS = 200
_SECONDS = 120.0
_FLAGS = ("--fabric", "ray", "--ray-port", "0", "--node-label", "cloudcrest.io/zone=a")


class Load:
    """Four streams at once, one after the other, while it is entered. `faults`: what those that broke ended with."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._stream) for _ in range(4)]
        self.whole = 0
        self.faults: list[str] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _stream(self) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 48}
        headers = {"authorization": f"Bearer {self._place.key}"}
        with httpx2.Client(base_url=self._place.url, headers=headers, timeout=120, trust_env=False) as client:
            while not self._over.is_set():
                lines: list[str] = []
                try:
                    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
                        lines = [line for line in answer.iter_lines() if line]
                except httpx2.HTTPError as error:
                    lines = [repr(error)]
                if lines[-1:] == ["data: [DONE]"]:
                    self.whole += 1
                else:
                    self.faults.append(str(lines[-1:]))


def measure(models: Path, rounds: int) -> dict[str, Any]:
    """Everything, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        with running(data, models, _FLAGS) as (cloud, start_seconds):
            connection = json.loads((data / "connection.json").read_text())
            headers = {"authorization": f"Bearer {connection['operator_key']}"}
            with httpx2.Client(base_url=connection["base_url"], headers=headers, timeout=30, trust_env=False) as http:
                figures: dict[str, Any] = {"start to first answer s": round(start_seconds, 1)}
                figures |= asyncio.run(_calls(data))
                figures["node joins s"], figures["replica comes back s"], figures["loss noticed s"] = [], [], []
                whole = broken = 0
                for number in range(rounds):
                    names = (f"b{number}", f"c{number}")
                    with joined(cloud, *names) as nodes:
                        figures["node joins s"].append(_until(lambda: _ready(http) >= {"local", *names}))  # noqa: B023
                        _scale(http, 3)
                        _until(lambda: {*_replicas(http).values()} == {"local", *names})  # noqa: B023
                        if number == 0:
                            figures["memory MiB"] = _memory(cloud, nodes)
                        before = _replicas(http)
                        with Load(cloud.front()) as load:
                            _until(lambda: load.whole >= 4)
                            nodes[names[0]].kill()
                            figures["loss noticed s"].append(_until(lambda: names[0] not in _ready(http)))  # noqa: B023
                            took = _until(lambda: len(_replicas(http).keys() - before.keys()) > 0)  # noqa: B023
                            figures["replica comes back s"].append(round(figures["loss noticed s"][-1] + took, 1))
                        whole, broken = whole + load.whole, broken + len(load.faults)
                        with Load(cloud.front()) as load:
                            os.kill(_pid(data, "ray"), signal.SIGKILL)
                            away = _outage(lambda: asyncio.run(_answers(data, {"local", names[1]})))  # noqa: B023
                            figures.setdefault("nodes unknown after Ray's head s", []).append(away)
                        whole, broken = whole + load.whole, broken + len(load.faults)
                        _scale(http, 1)
                        _until(lambda: len(_replicas(http)) == 1)
                figures["streams whole"], figures["streams broken"] = whole, broken
    return {"machine": machine(), "figures": figures}


@contextmanager
def joined(cloud: Cloud, *names: str) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Nodes that join, each in a zone of its own; killed in the end."""
    head = json.loads((cloud.data / "run" / "up.json").read_text())["ray_address"]
    nodes = {}
    try:
        for name in names:
            argv = [sys.executable, "-m", "cloudcrest.bootstrap", "join", head, "--data", str(cloud.data)]
            argv += ["--name", name, "--label", f"cloudcrest.io/zone={name}"]
            with (cloud.data.parent / f"{name}.log").open("wb") as log:
                nodes[name] = subprocess.Popen(argv, stdout=log, stderr=log)
        yield nodes
    finally:
        for node in nodes.values():
            node.kill()
            node.wait()


async def _calls(data: Path) -> dict[str, float]:
    """Milliseconds of asking what runs: the agent itself, and the fabric process, which asks it through Ray."""
    figures = {}
    for name, socket in (("agent", "agent.sock"), ("through Ray", "node.sock")):
        fabric, took = LocalFabric(data / "run" / socket), []
        for _ in range(_CALLS):
            began = time.perf_counter()
            await fabric.list()
            took.append(time.perf_counter() - began)
        figures[f"a call, {name}, p50 ms"] = round(1000 * statistics.median(took), 2)
    return figures


async def _answers(data: Path, names: set[str]) -> bool:
    """Whether the fabric knows these nodes as ready."""
    try:
        nodes = await LocalFabric(data / "run" / "node.sock").nodes()
    except CloudcrestError:
        return False
    return {node.id for node in nodes if node.is_ready} >= names


def _ready(http: httpx2.Client) -> set[str]:
    return {node["node"] for node in http.get("/api/v1/nodes").json()["data"] if node["state"] == "ready"}


def _chat(http: httpx2.Client) -> dict[str, Any]:
    deployments = http.get("/api/v1/deployments").json()["data"]
    found: dict[str, Any] = next(each for each in deployments if each["name"] == MODEL)
    return found


def _replicas(http: httpx2.Client) -> dict[str, str]:
    return {each["id"]: each["node_id"] for each in _chat(http)["replica_states"] if each["state"] == "ready"}


def _scale(http: httpx2.Client, count: int) -> None:
    body = {"replicas": {"min": count, "max": count}}
    http.patch(f"/api/v1/deployments/{_chat(http)['id']}", json=body).raise_for_status()


def _pid(data: Path, process: str) -> int:
    return int(json.loads((data / "run" / "up.json").read_text())["processes"][process])


def _memory(cloud: Cloud, nodes: dict[str, "subprocess.Popen[bytes]"]) -> dict[str, float]:
    """What Ray costs, beside replicas: of the cloud's own machine and of one that has joined."""
    sizes = cloud.memory()
    node = psutil.Process(next(iter(nodes.values())).pid)
    ray = [each for each in node.children(recursive=True) if "llamacpp" not in " ".join(each.cmdline())]
    return {
        "ray (head)": sizes["ray"],
        "fabric": sizes["fabric"],
        "node join": round(memory_bytes(node) / MIB, 1),
        "ray (of a node)": round(sum(memory_bytes(each) for each in ray) / MIB, 1),
    }


def _until(holds: Callable[[], object]) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > _SECONDS:
            sys.exit("it did not happen in two minutes")
        time.sleep(0.05)
    return round(time.monotonic() - began, 1)


def _outage(holds: Callable[[], object]) -> float:
    """Seconds from when something holds no longer until it does again."""
    _until(lambda: not holds())
    return _until(holds)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.over_ray", description=__doc__)
    parser.add_argument("--keep-models", type=Path, default=None, help="weights are here already: fetch none")
    parser.add_argument("--rounds", type=int, default=3, help="how often a node and Ray's head are killed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        result = measure(arguments.keep_models or Path(folder), arguments.rounds)
    print(f"machine: {result['machine']}\n")
    for name, value in result["figures"].items():
        print(f"{name:<40} {value}")
    OUT.mkdir(exist_ok=True)
    (OUT / "over_ray.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
