"""What is charged follows from the record, so it survives and does not depend on the wall clock being left alone."""

from pathlib import Path

from cloudcrest.compute.jobs.runner.record import Recorder
from cloudcrest.compute.jobs.running import End
from cloudcrest.compute.sandbox.api import SandboxUsage
from cloudcrest.kernel.clock import ManualClock


def test_a_run_has_its_real_start_and_end(tmp_path: Path) -> None:
    clock = ManualClock()
    recorder = Recorder(tmp_path, clock)
    recorder.prepared_for("job_1-1", 0)
    clock.advance(100)
    recorder.started()
    started_at = clock.unix_seconds()
    clock.advance(7)
    recorder.mark(SandboxUsage(3.0, 0, 1000, sent_bytes=7, received_bytes=70))
    clock.advance(5)
    recorder.ended(End("exit", "it exited with code 0", 0), SandboxUsage(2.0, 0, 500, sent_bytes=8))
    record = recorder.record
    assert (record.started_at, record.ended_at) == (started_at, started_at + 12)
    assert (record.cpu_seconds, record.memory_peak_bytes) == (3.0, 1000)
    assert (record.sent_bytes, record.received_bytes) == (8, 70)


def test_a_killed_runner_is_closed_at_its_last_mark(tmp_path: Path) -> None:
    clock = ManualClock()
    killed = Recorder(tmp_path, clock)
    killed.prepared_for("job_1-1", 0)
    killed.started()
    clock.advance(4)
    killed.mark(SandboxUsage(1.5, 0, 10))
    clock.advance(60)
    after = Recorder(tmp_path, clock)
    assert after.recover()
    assert after.record.end is not None
    assert after.record.end.kind == "lost"
    assert after.record.started_at is not None
    assert after.record.ended_at == after.record.started_at + 4
    again = Recorder(tmp_path, clock)
    assert again.recover()
    assert again.record == after.record


def test_what_never_began_costs_no_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ManualClock())
    recorder.prepared_for("job_1-1", 0)
    recorder.ended(End("prepare", "no such input"), SandboxUsage())
    assert recorder.record.started_at is None
    assert recorder.record.ended_at is None


def test_there_is_nothing_to_recover_in_a_new_folder(tmp_path: Path) -> None:
    assert not Recorder(tmp_path, ManualClock()).recover()
