"""Placement on mixed accelerators, the experiment of FGD (USENIX ATC'23): how much of a cluster can be given out.

    python -m bench.scheduling [--traces FOLDER] [--workloads NAME …] [--policies NAME …] [--seeds N] [--growth]

Demands come until they ask for 1.3 times what there is; nothing leaves, what does not fit is dropped. FOLDER (or
CLOUDCREST_SCHEDULING_TRACES) has the traces, whose public source trace.py names; made workloads run beside them, and
alone where there are none. Prints a table and writes bench/out/scheduling.json. But for the times of decisions the
figures do not depend on the machine.
"""

import argparse
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.scheduling.experiment import Outcome, Run, simulate
from bench.scheduling.policies import POLICIES
from bench.scheduling.trace import MADE, Workload, larger, load, make, workloads

OUT = Path(__file__).parent.parent / "out"
FIRST_SEED, SEEDS = 42, 10
GROWTH = (1, 2, 4, 8, 16)
QUICK_POLICIES = ("BestFit", "Cloudcrest")
PUBLISHED = {
    ("default", "Random"): (86.30, 87.47), ("default", "BestFit"): (92.86, 93.08), ("default", "FGD"): (95.23, 95.39),
    ("gpushare100", "BestFit"): (None, 85.01), ("gpushare100", "FGD"): (None, 86.90),
    ("gpuspec33", "BestFit"): (None, 93.09), ("gpuspec33", "FGD"): (None, 94.55),
}  # fmt: skip
"""At 100% and 130%, means of ten runs, from the paper."""


def main() -> None:
    """Runs, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.scheduling", description=(__doc__ or "").partition("\n")[0])
    folder = os.environ.get("CLOUDCREST_SCHEDULING_TRACES")
    parser.add_argument("--traces", type=Path, default=folder, help="folder of the traces")
    parser.add_argument("--workloads", nargs="*", help="which of them (all, and the made ones)")
    parser.add_argument("--policies", nargs="*", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"runs of each, from seed {FIRST_SEED} on")
    parser.add_argument("--growth", action="store_true", help="also clusters up to 16 times as large")
    parser.add_argument("--quick", action="store_true", help="two seeds, two policies, for a look")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    seeds = 2 if arguments.quick else arguments.seeds
    policies = QUICK_POLICIES if arguments.quick else arguments.policies
    found = [] if arguments.traces is None else workloads(arguments.traces)
    if not found:
        print("no traces given: made workloads alone")
    names = arguments.workloads or [*found, *MADE]
    runs = [
        Run(name, policy, seed, 1)
        for name in names
        for policy in policies
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
    ]
    if arguments.growth:
        runs += [Run(names[0], "Cloudcrest", FIRST_SEED, times) for times in GROWTH[1:]]
    outcomes = list(_run_all(arguments.traces, runs, arguments.processes))
    _print(outcomes)
    OUT.mkdir(exist_ok=True)
    (OUT / "scheduling.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)))


_loaded: dict[str, Workload] = {}


def _run(traces: Path | None, run: Run) -> Outcome:
    workload = _loaded.get(run.workload)
    if workload is None:
        workload = make(run.workload) if traces is None or run.workload in MADE else load(traces, run.workload)
        _loaded[run.workload] = workload
    return simulate(run, workload if run.times == 1 else larger(workload, run.times))


def _run_all(traces: Path | None, runs: Iterable[Run], processes: int) -> Iterator[Outcome]:
    runs = list(runs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress, ProcessPoolExecutor(processes) as pool:
        bar = progress.add_task("runs", total=len(runs))
        futures = [pool.submit(_run, traces, run) for run in runs]
        for future in as_completed(futures):
            progress.advance(bar)
            yield future.result()


def _print(outcomes: Iterable[Outcome]) -> None:
    grouped: dict[tuple[str, str, int], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        grouped[outcome.run.workload, outcome.run.policy, outcome.run.times].append(outcome)
    print(
        f"{'workload':<14}{'policy':<12}{'GPUs':>8}{'100%':>8}{'130%':>8}{'fragm.':>8}"
        f"{'ms':>8}{'p99 ms':>8}{'run s':>7}"
    )
    order = list(POLICIES)
    for workload, policy, times in sorted(grouped, key=lambda key: (key[2], key[0], order.index(key[1]))):
        runs = grouped[workload, policy, times]
        published = PUBLISHED.get((workload, policy)) if times == 1 else None
        print(
            f"{workload:<14}{policy:<12}{runs[0].accelerators:>8}"
            f"{_mean(runs, 'allocated_at_100'):>8.2f}{_mean(runs, 'allocated_at_130'):>8.2f}"
            f"{_mean(runs, 'fragmented_at_130'):>8.2f}{_mean(runs, 'decision_milliseconds'):>8.2f}"
            f"{_mean(runs, 'decision_p99_milliseconds'):>8.2f}{_mean(runs, 'seconds'):>7.1f}"
            + ("" if published is None else f"   published {json.dumps(published)}")
        )


def _mean(outcomes: Iterable[Outcome], field: str) -> float:
    return statistics.fmean(getattr(outcome, field) for outcome in outcomes)


if __name__ == "__main__":
    main()
