"""The gateway under load, as it is, compiled, and awake, beside nginx, a proxy that looks at nothing, and others.

    python -m bench.gateway [--rounds N] [--seconds S] [--peers NAME …] [--long]

Prints a table and writes bench/out/gateway.json. The gateway under test has one core, the load and the fake replicas
another. Every figure is the median of rounds in which all take turns, so that they see the same machine; a ratio to
nginx is the median of the rounds' own, with the lowest and the highest. --long sends one gateway a million requests and
watches its memory.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools import compiled

from bench.gateway import machine, peers, stage
from bench.gateway.measure import BIG_PROMPT_BYTES, Generator, Load
from bench.gateway.stage import Target

SOURCES = Path(__file__).parent
OUT = SOURCES.parent / "out"
REPLICAS = 4
CHUNKS = 100
PACE_MICROSECONDS = 20_000
POLL_SECONDS = 0.1
"""How long the worker named "awake" looks for more before it sleeps: for latency, at the price of its core."""
CONNECTIONS = 32
STREAMS = 200
LONG_REQUESTS = 1_000_000
COSTS = {
    "plain": "requests per CPU-second",
    "big": "32 KB prompts per CPU-second",
    "stream": "stream CPU µs per chunk",
}
BARS = {
    "requests per CPU-second": "at least 0.45 of nginx",
    "32 KB prompts per CPU-second": "at least 0.35 of nginx",
    "stream CPU µs per chunk": "at most 1.15 of nginx",
    "added p50 µs at 100/s": "within 150 of nginx",
    "added p99 µs at 100/s": "within 1000 of nginx",
    "memory MiB": "below 70",
    "first answer s": "below 1",
}

Measurement = Callable[[Target], Load]


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each turn")
    names = [peer.name for peer in peers.PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names, help="other gateways to measure too")
    parser.add_argument("--long", action="store_true", help="a million requests through one worker instead")
    arguments = parser.parse_args()
    machine.need("cc", "taskset")
    OUT.mkdir(exist_ok=True)
    programs = OUT / "gateway"
    programs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder, ExitStack() as stack:
        generator = Generator(machine.compiled(SOURCES / "load.c", programs), Path(folder))
        ports = stack.enter_context(
            stage.upstream(
                machine.compiled(SOURCES / "upstream.c", programs),
                Path(folder) / "upstream",
                replicas=REPLICAS,
                chunks=CHUNKS,
                pace_microseconds=PACE_MICROSECONDS,
            )
        )
        if arguments.long:
            target = stack.enter_context(stage.cloudcrest(Path(folder) / "cloudcrest", ports))
            result = watch_memory(generator, target)
            name = "gateway-long.json"
        else:
            targets = start_all(stack, Path(folder), ports, arguments.peers)
            result = measure(generator, targets, ports[0], arguments.rounds, arguments.seconds)
            show(result)
            name = "gateway.json"
        (OUT / name).write_text(json.dumps(result, indent=2) + "\n")


def start_all(stack: ExitStack, folder: Path, ports: Sequence[int], wanted: Sequence[str]) -> list[Target]:
    """Everyone who takes part; who does not is named with the reason."""
    targets = [stack.enter_context(stage.cloudcrest(folder / "cloudcrest", ports))]
    reason = compiled.made()
    if reason is None:
        made = stage.cloudcrest(folder / "compiled", ports, "compiled", compiled.OUT)
        targets.append(stack.enter_context(made))
        awake = stage.cloudcrest(folder / "awake", ports, "awake", compiled.OUT, poll_seconds=POLL_SECONDS)
        targets.append(stack.enter_context(awake))
    else:
        print(f"the compiled gateway is left out: {reason}")
    targets.append(stack.enter_context(stage.floor(folder / "floor", ports)))
    if stage.has_nginx():
        targets.insert(0, stack.enter_context(stage.nginx(folder / "nginx", ports)))
    else:
        print("nginx is left out: it is not installed (Debian, Ubuntu: apt install nginx); there are no ratios")
    for peer in peers.PEERS:
        if peer.name not in wanted:
            continue
        environment = OUT / "gateway" / peer.name
        print(f"{peer.name}: installing where it is not", file=sys.stderr)
        missing = peers.installed(peer, environment)
        if missing is None:
            try:
                targets.append(stack.enter_context(peers.started(peer, environment, folder / peer.name, ports)))
            except TimeoutError as error:
                missing = str(error)
        if missing is not None:
            print(f"{peer.name} is left out: {missing}")
    return targets


def measure(
    generator: Generator, targets: Sequence[Target], upstream_port: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """All measurements of all targets, in turns."""
    bare = Target("no gateway", upstream_port, 0, 0.0)
    stream_rounds = max(1, round(seconds / (CHUNKS * PACE_MICROSECONDS / 1e6)))
    measurements: dict[str, Measurement] = {
        "plain": lambda target: generator.saturate(target, CONNECTIONS, seconds),
        "big": lambda target: generator.saturate(target, CONNECTIONS, seconds, padding_bytes=BIG_PROMPT_BYTES),
        "latency": lambda target: generator.pace(target, seconds),
        "stream": lambda target: generator.stream(target, STREAMS, stream_rounds),
    }
    figures: dict[str, dict[str, float]] = {target.name: {} for target in targets}
    ratios: dict[str, dict[str, list[float]]] = {target.name: {} for target in targets}
    raw: dict[str, dict[str, list[dict[str, Any]]]] = {target.name: {} for target in targets}
    for name, run in measurements.items():
        loads = _in_turns([*targets, bare] if name == "latency" else targets, run, rounds)
        for target in targets:
            own = loads[target.name]
            raw[target.name][name] = [asdict(load) for load in own]
            figures[target.name] |= _latencies(own, loads[bare.name]) if name == "latency" else _costs(name, own)
            if errors := sum(load.errors for load in own):
                figures[target.name][f"errors, {name}"] = errors
            if name in COSTS and stage.NGINX in loads:
                ratios[target.name][COSTS[name]] = _ratios(name, own, loads[stage.NGINX])
    for target in targets:
        figures[target.name] |= {
            "memory MiB": round(machine.memory_mib(target.pid), 1),
            "first answer s": round(target.first_answer_seconds, 2),
        }
    return {"machine": machine.description(), "figures": figures, "ratios": ratios, "rounds": raw}


def _in_turns(targets: Sequence[Target], run: Measurement, rounds: int) -> dict[str, list[Load]]:
    """The first round warms up and is not counted; who goes first changes."""
    loads: dict[str, list[Load]] = {target.name: [] for target in targets}
    for number in range(rounds + 1):
        for target in targets if number % 2 else reversed(targets):
            load = run(target)
            if number > 0:
                loads[target.name].append(load)
    return loads


def _latencies(loads: Sequence[Load], bare: Sequence[Load]) -> dict[str, float]:
    """What a target adds to the replica's own, in microseconds."""
    found: dict[str, float] = {}
    for percentile in ("p50_us", "p99_us"):
        with_target, without = (statistics.median(getattr(load, percentile) for load in each) for each in (loads, bare))
        found[f"added {percentile[:3]} µs at 100/s"] = round(with_target - without)
    return found


def _costs(name: str, loads: Sequence[Load]) -> dict[str, float]:
    median = statistics.median(_cost(name, load) for load in loads)
    return {COSTS[name]: round(median, 1) if name == "stream" else round(median)}


def _ratios(name: str, loads: Sequence[Load], to: Sequence[Load]) -> list[float]:
    """Of each round, in ascending order."""
    return sorted(_cost(name, load) / _cost(name, other) for load, other in zip(loads, to, strict=True))


def _cost(name: str, load: Load) -> float:
    """What a second of processor time brought, or how many microseconds of it a chunk took."""
    return load.cpu_seconds / max(1, load.samples) * 1e6 if name == "stream" else load.per_cpu_second


def watch_memory(generator: Generator, target: Target) -> dict[str, Any]:
    """Memory after each tenth of a million requests."""
    sizes: list[tuple[int, float]] = []
    answered = errors = 0
    while answered < LONG_REQUESTS:
        load = generator.saturate(target, CONNECTIONS, 5.0)
        answered, errors = answered + load.answered, errors + load.errors
        if not sizes or answered // (LONG_REQUESTS // 10) > sizes[-1][0] // (LONG_REQUESTS // 10):
            sizes.append((answered, round(machine.memory_mib(target.pid), 1)))
            print(f"{answered:>10} requests  {sizes[-1][1]:>6.1f} MiB  {errors} errors")
    return {"machine": machine.description(), "memory_mib": sizes, "errors": errors}


def show(result: dict[str, Any]) -> None:
    """The figures as a table, with the ratio to nginx where there is one."""
    figures: dict[str, dict[str, float]] = result["figures"]
    print(f"machine: {result['machine']}\n")
    for label in dict.fromkeys(label for of_target in figures.values() for label in of_target):
        print(f"{label}{f'  (bar: {BARS[label]})' if label in BARS else ''}")
        for name, of_target in figures.items():
            if label in of_target:
                print(f"    {name:<16}{of_target[label]:>12,}{_ratio(result['ratios'][name].get(label))}")
    print()


def _ratio(rounds: Sequence[float] | None) -> str:
    if not rounds:
        return ""
    return f"{statistics.median(rounds):>8.3f} of nginx ({rounds[0]:.2f} to {rounds[-1]:.2f})"


if __name__ == "__main__":
    main()
