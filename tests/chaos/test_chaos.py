"""A moment of chaos with a fixed seed; `make chaos` runs it for longer, with any."""

import sys
from pathlib import Path

import pytest
from bench.chaos.claims import describe
from bench.chaos.plan import TARGETS
from bench.chaos.run import Options, run

SEED = 20


@pytest.mark.timeout(240)
def test_what_is_promised_holds_while_everything_is_killed(tmp_path: Path) -> None:
    options = Options(SEED, seconds=12, kill_every_seconds=1.3, after_seconds=1.5)
    outcome = run(options, tell=lambda line: sys.stderr.write(f"{line}\n"), keep_logs=tmp_path / "logs")
    assert outcome.is_good, f"seed {SEED}, logs in {tmp_path}:\n{describe(outcome.findings)}"
    assert set(outcome.kills) == {*TARGETS, "up"}
    assert outcome.streams_that_lost_a_replica
    assert outcome.streams_at_killed_gateways
    assert all(finding.checked for finding in outcome.findings)
