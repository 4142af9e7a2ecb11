"""Chaos for minutes: a whole cloud under load while its processes are killed at random.

    python -m bench.chaos [--minutes M] [--seed N] [--kill-every S]

Shows what is killed, then a table of claims; writes bench/out/chaos-<seed>.json; where a claim broke, the exit code is
1 and the logs lie beside it. The same seed makes the same requests and the same kills again.
"""

import argparse
import secrets
import sys
import time
from pathlib import Path

import msgspec

from bench.chaos.claims import describe
from bench.chaos.run import Options, Outcome, run

OUT = Path(__file__).parent.parent / "out"


def show(outcome: Outcome) -> None:
    """The run as a table."""
    print()
    for title, counts in (
        ("requests", outcome.requests),
        ("endings", outcome.endings),
        ("kills", outcome.kills),
        ("events", outcome.events),
        ("most memory, MiB", outcome.memory_mib),
    ):
        print(f"{title + ':':<20}" + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"{'lost a replica:':<20}{outcome.streams_that_lost_a_replica} requests")
    print(f"{'at a killed gateway:':<20}{outcome.streams_at_killed_gateways} requests")
    print(f"{'refused:':<20}{outcome.refused_out_of_budget} out of budget, {outcome.refused_without_grant} no grant")
    print(f"{'charged:':<20}{outcome.charged}")
    print()
    for finding in outcome.findings:
        print(f"{'BROKEN' if finding.broken else 'holds':<8}{finding.checked:>8,}  {finding.claim}")


def main() -> int:
    """Runs, prints, writes; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=None, help="replays a run; else at random")
    parser.add_argument("--kill-every", type=float, default=3.0, metavar="SECONDS", help="between kills, on average")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    began_at = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - began_at:6.1f}] {line}", flush=True)

    logs = OUT / f"chaos-{seed}-logs"
    outcome = run(Options(seed, arguments.minutes * 60, arguments.kill_every), tell, logs)
    show(outcome)
    OUT.mkdir(exist_ok=True)
    path = OUT / f"chaos-{seed}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))
    print(f"\nwritten to {path}")
    if outcome.is_good:
        return 0
    print(f"\nseed {seed}:\n{describe(outcome.findings)}\nlogs: {logs}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
