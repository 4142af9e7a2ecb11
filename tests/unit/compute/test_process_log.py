"""A log stays within its bound."""

import os
from pathlib import Path

from cloudcrest.compute.fabric.process_log import TAIL_BYTES, ProcessLog, prune_logs


def test_a_log_never_grows_past_twice_its_bound(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path, "noisy", max_file_bytes=1000)
    for number in range(500):
        log.write(f"line {number}\n".encode())
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["noisy.log", "noisy.log.1"]
    assert all(path.stat().st_size <= 1000 for path in files)
    assert log.tail().endswith("line 499")


def test_a_log_is_appended_to_across_restarts(tmp_path: Path) -> None:
    for word in (b"first\n", b"second\n"):
        log = ProcessLog(tmp_path, "again")
        log.write(word)
        log.close()
    assert log.path.read_bytes() == b"first\nsecond\n"


def test_the_tail_is_the_end_in_whole_lines(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path, "long")
    log.write(b"x" * TAIL_BYTES + b"\nlast line\n")
    log.close()
    assert log.tail() == "last line"


def test_what_is_no_text_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path, "binary")
    log.write(b"caf\xff\n")
    log.close()
    assert log.tail() == "caf�"


def test_the_oldest_logs_go(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"rep_{number}.log"
        path.write_text("x")
        os.utime(path, (number, number))
    prune_logs(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rep_4.log", "rep_5.log"]
