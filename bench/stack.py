"""The whole stack: starts, throughput through the cloud against the bare engine, memory at rest.

    python -m bench.stack [--rounds N] [--streams N] [--keep-models DIR]

Prints a table and writes bench/out/stack.json. Starts are timed to the first answered chat. Through the cloud and bare
are measured in turns against the same replica, so that both see the same machine. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

MODEL = "smollm2-135m-instruct"
OUT = Path(__file__).parent / "out"
TOKENS_PER_ANSWER = 128
START_SECONDS = 600.0
REST_SECONDS = 10.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where chats can be sent."""

    url: str
    key: str


@dataclass(frozen=True)
class Rate:
    """Tokens per second of a number of streams at once: every round, and the medians."""

    streams: int
    cloud: list[float]
    bare: list[float]
    ratio: float


class Cloud:
    """One `up` over a data folder. `flags`: more of its own."""

    def __init__(self, data: Path, models: Path, flags: Sequence[str] = ()) -> None:
        self.data = data
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST_")}
        argv = [sys.executable, "-m", "cloudcrest.bootstrap", "up", "--data", str(data), "--port", "0"]
        argv += ["--models-folder", str(models), *flags]
        data.parent.mkdir(parents=True, exist_ok=True)
        self._log = (data.parent / "up.log").open("ab")
        self._began = time.monotonic()
        self.process = subprocess.Popen(argv, env=environment, stdout=self._log, stderr=self._log)

    def wait_ready(self) -> float:
        """Seconds from the start of `up` to the first answered chat."""
        while time.monotonic() - self._began < START_SECONDS:
            if self.process.poll() is not None:
                sys.exit(f"up ended: {(self.data.parent / 'up.log').read_text()[-2000:]}")
            state = self.data / "run" / "up.json"
            if state.exists() and json.loads(state.read_text()).get("is_ready"):
                return time.monotonic() - self._began
            time.sleep(0.02)
        sys.exit("the cloud did not get ready")

    def front(self) -> Place:
        """The cloud's own address, with the first key."""
        connection = json.loads((self.data / "connection.json").read_text())
        return Place(connection["base_url"], connection["api_key"])

    def replica(self) -> Place:
        """The replica behind it, from what the gateway knows."""
        feed = json.loads((self.data / "regions" / "local" / "gateway" / "feed.json").read_text())
        routes = feed["documents"]["route"].values()
        replica = next(route for route in routes if route["model_name"] == MODEL)["replicas"][0]
        return Place(replica["url"], replica["token"])

    def memory(self) -> dict[str, float]:
        """MB of each process by name: what it has alone plus its share of what it has in common, where Linux says."""
        names = {
            pid: name for name, pid in json.loads((self.data / "run" / "up.json").read_text())["processes"].items()
        }
        sizes: dict[str, float] = {}
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            name = "up" if process.pid == root.pid else _name(process, names)
            sizes[name] = sizes.get(name, 0.0) + memory_bytes(process) / MIB
        return {name: round(size, 1) for name, size in sorted(sizes.items())}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._log.close()


@contextmanager
def running(data: Path, models: Path, flags: Sequence[str] = ()) -> Iterator[tuple[Cloud, float]]:
    """A running cloud, and how long its start took."""
    cloud = Cloud(data, models, flags)
    try:
        yield cloud, cloud.wait_ready()
    finally:
        cloud.stop()


def tokens_per_second(place: Place, streams: int) -> float:
    """Output tokens of `streams` streamed answers at once, over the time until the last is whole."""
    tokens: list[int] = []
    threads = [threading.Thread(target=lambda: tokens.append(_stream(place))) for _ in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(tokens) < streams:
        sys.exit(f"{streams - len(tokens)} answers of {place.url} broke off")
    return sum(tokens) / (time.perf_counter() - began)


def compare(cloud: Cloud, streams: int, rounds: int) -> Rate:
    """Through the cloud and bare in turns; who goes first changes with each round."""
    front, bare = cloud.front(), cloud.replica()
    rates: dict[Place, list[float]] = {front: [], bare: []}
    for place in (front, bare):
        tokens_per_second(place, streams)
    for number in range(rounds):
        for place in (front, bare) if number % 2 == 0 else (bare, front):
            rates[place].append(round(tokens_per_second(place, streams), 1))
    ratio = statistics.median(rates[front]) / statistics.median(rates[bare])
    return Rate(streams, rates[front], rates[bare], round(ratio, 3))


def measure(models: Path | None, streams: Sequence[int], rounds: int) -> dict[str, Any]:
    """Everything, in folders that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        kept = models or root / "models"
        seconds: dict[str, float] = {}
        if models is None:
            with running(root / "first" / "data", kept) as (_, took):
                seconds["fresh, weights fetched"] = took
        with running(root / "second" / "data", kept) as (_, took):
            seconds["fresh, weights kept"] = took
        with running(root / "second" / "data", kept) as (cloud, took):
            seconds["warm"] = took
            time.sleep(REST_SECONDS)
            memory = cloud.memory()
            rates = [asdict(compare(cloud, count, rounds)) for count in streams]
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return {"machine": machine(), "start_seconds": rounded, "memory_mib": memory, "tokens_per_second": rates}


def show(result: dict[str, Any]) -> None:
    """The figures as a table."""
    print(f"machine: {result['machine']}\n")
    for name, seconds in result["start_seconds"].items():
        print(f"start to first answer, {name:<24} {seconds:>8.2f} s")
    print()
    for rate in result["tokens_per_second"]:
        cloud, bare = statistics.median(rate["cloud"]), statistics.median(rate["bare"])
        print(
            f"{rate['streams']} streams: {cloud:.1f} tokens/s through the cloud, {bare:.1f} bare: {rate['ratio']:.3f}"
        )
    print()
    for name, size in result["memory_mib"].items():
        print(f"memory at rest, {name:<36} {size:>8.1f} MiB")
    print(f"memory at rest, {'all':<36} {sum(result['memory_mib'].values()):>8.1f} MiB")


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.stack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4], help="streams at once")
    parser.add_argument("--keep-models", type=Path, default=None, help="weights are here already: fetch none")
    arguments = parser.parse_args()
    result = measure(arguments.keep_models, arguments.streams, arguments.rounds)
    show(result)
    OUT.mkdir(exist_ok=True)
    (OUT / "stack.json").write_text(json.dumps(result, indent=2) + "\n")


def _stream(place: Place) -> int:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a long story about a cloud."}],
        "max_tokens": TOKENS_PER_ANSWER,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"authorization": f"Bearer {place.key}"}
    tokens = 0
    with (
        httpx2.Client(base_url=place.url, headers=headers, timeout=300, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens


def _name(process: psutil.Process, names: dict[int, str]) -> str:
    for ancestor in (process, *process.parents()):
        if ancestor.pid in names:
            return names[ancestor.pid]
    argv = " ".join(process.cmdline())
    return f"replica ({'chat' if MODEL in argv else 'embeddings'})"


def memory_bytes(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def machine() -> str:
    memory = psutil.virtual_memory().total / 1024**3
    place = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    return f"{place}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
