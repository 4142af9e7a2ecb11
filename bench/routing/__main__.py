"""Prefix-aware routing, replayed: the share of prompt tokens that are cached, and the time to the first token.

    python -m bench.routing [--trace FILE] [--jitters N] [--quick]

Replays Mooncake's conversation trace (trace.py names its public source) with peers' rules and the gateway's own, which
is the function that the live gateway calls. `--trace`, or the environment's CLOUDCREST_MOONCAKE_TRACE, names the file,
gzipped or not; without one a small made sample stands in. Prints tables and writes bench/out/routing.json. No GPU:
replicas are simulated (replicas.py). Figures do not depend on the machine, but for the time of a decision.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path

from bench.routing import trace as traces
from bench.routing.policies import POLICIES
from bench.routing.replay import Outcome, Run, replay, without_queues
from bench.routing.replicas import prefill_seconds
from bench.routing.trace import TraceRequest
from cloudcrest.gateway.routing.books import Member
from cloudcrest.gateway.routing.router import Ask, Router

OUT = Path(__file__).parent.parent / "out"
SETTINGS = ("base", "variant")
SAMPLE_SECONDS = 300.0
_workloads: dict[str, list[TraceRequest]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trace", type=Path, default=os.environ.get("CLOUDCREST_MOONCAKE_TRACE"))
    parser.add_argument("--jitters", type=int, default=8, help="arrival jitters averaged in the main table (default 8)")
    parser.add_argument("--sweep-jitters", type=int, default=2, help="the same in the other tables (default 2)")
    parser.add_argument("--quick", action="store_true", help="only the main table")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    name = _load(arguments.trace)
    runs = _runs("base", name, 16, 1.0, arguments.jitters) + _runs("variant", name, 16, 1.0, arguments.jitters)
    if not arguments.quick:
        for setting in SETTINGS:
            for replicas, load in ((8, 0.5), (8, 1.0), (32, 1.0), (32, 2.0), (16, 0.7), (16, 1.3)):
                runs += _runs(setting, name, replicas, load, arguments.sweep_jitters)
            for made in traces.MADE:
                _workloads[made] = traces.make(made)
                runs += _runs(setting, made, 16, 1.0, arguments.sweep_jitters)
    results = _replay_all(runs, arguments.processes)
    bounds = {each: without_queues(requests) for each, requests in _workloads.items()}
    for key in results:
        _print_table(key, results[key], bounds[key[1]])
    micros = decision_micros(64)
    print("\nA decision at 64 replicas, microseconds: " + ", ".join(f"{k} {v:.1f}" for k, v in micros.items()))
    OUT.mkdir(exist_ok=True)
    _write(OUT / "routing.json", results, bounds, micros)


def _load(path: Path | None) -> str:
    if path is not None and Path(path).exists():
        _workloads["mooncake"] = traces.load(Path(path))
        return "mooncake"
    print(f"no trace given: a made sample stands in. The trace: {traces.SOURCE}", file=sys.stderr)
    _workloads["sample"] = traces.make("chats", SAMPLE_SECONDS)
    return "sample"


Job = tuple[str, Run]
Key = tuple[str, str, int, float]


def _runs(setting: str, workload: str, replicas: int, load: float, jitters: int) -> list[Job]:
    return [
        (workload, Run(setting, policy, replicas, load, seed))
        for policy in POLICIES
        if setting == "variant" or policy != "Cloudcrest, ordered queues"
        for seed in range(jitters)
    ]


def _one(job: Job) -> tuple[Job, Outcome]:
    return job, replay(_workloads[job[0]], job[1])


def _replay_all(runs: list[Job], processes: int) -> dict[Key, dict[str, Outcome]]:
    """The mean over the jitters, by table and policy. Workers are forked, so they have the workloads."""
    found: dict[Key, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    with Pool(processes) as pool:
        for (workload, run), outcome in _with_progress(pool.imap(_one, runs), len(runs)):
            found[run.setting, workload, run.replicas, run.load][run.policy].append(outcome)
    return {
        key: {
            policy: Outcome(*(statistics.fmean(values) for values in zip(*outcomes, strict=True)))
            for policy, outcomes in policies.items()
        }
        for key, policies in found.items()
    }


def _with_progress(items: Iterable[tuple[Job, Outcome]], total: int) -> Iterable[tuple[Job, Outcome]]:
    """Shows how far it is on a terminal."""
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        if sys.stderr.isatty():
            bar = "█" * (30 * done // total)
            left = (time.monotonic() - began) * (total - done) / done
            print(f"\r{bar:░<30} {done}/{total}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _print_table(key: Key, rows: dict[str, Outcome], bound: Outcome) -> None:
    setting, workload, replicas, load = key
    print(f"\n{workload}, {setting}: {replicas} replicas, {load:g} × arrivals")
    print(f"| {'policy':<28} | hit % | of infinite % | mean TTFT s | p99 TTFT s |")
    print(f"|{'-' * 30}|------:|--------------:|------------:|-----------:|")
    for policy, each in [*rows.items(), ("infinite cache, no queue", bound)]:
        share = 100 * each.hit / bound.hit
        print(
            f"| {policy:<28} | {100 * each.hit:5.1f} | {share:13.0f} |"
            f" {each.mean_seconds:11.3f} | {each.p99_seconds:10.2f} |"
        )


def decision_micros(replicas: int) -> dict[str, float]:
    """Median microseconds of a choice on a busy fleet, and of taking the choice into account."""
    rng = random.Random(1)
    router = Router(prefill_seconds)
    router.set_members([Member(str(number), slots=256) for number in range(replicas)], 0.0)
    systems = [[rng.getrandbits(60) for _ in range(4)] for _ in range(20)]
    chosen, sent = [], []
    tickets = []
    for number in range(20_000):
        now = number * 0.05
        ask = Ask(12_000, rng.choice(systems) + [rng.getrandbits(60) for _ in range(20)], 512)
        began = time.perf_counter()
        ticket = router.choose(ask, now)
        between = time.perf_counter()
        assert ticket is not None
        router.send(ticket, now)
        ended = time.perf_counter()
        chosen.append(between - began)
        sent.append(ended - between)
        tickets.append(ticket)
        if len(tickets) > replicas:
            done = tickets.pop(0)
            router.first_token(done, now)
            router.end(done, now)
    return {"choice": 1e6 * statistics.median(chosen), "bookkeeping": 1e6 * statistics.median(sent)}


def _write(
    path: Path, results: dict[Key, dict[str, Outcome]], bounds: dict[str, Outcome], micros: dict[str, float]
) -> None:
    tables = [
        {
            "setting": setting,
            "workload": workload,
            "replicas": replicas,
            "load": load,
            "policies": {policy: outcome._asdict() for policy, outcome in rows.items()},
            "bound": bounds[workload]._asdict(),
        }
        for (setting, workload, replicas, load), rows in results.items()
    ]
    document = {"source": traces.SOURCE, "decision_microseconds": micros, "tables": tables}
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
