"""A job's output: bounded, and read from any offset that is still there."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.compute.jobs.runner.log import SegmentedLog


def read_all(log: SegmentedLog, offset: int) -> bytes:
    parts: list[bytes] = []
    while True:
        begin, chunk = log.read(offset, 7)
        if not chunk:
            return b"".join(parts)
        parts.append(chunk)
        offset = begin + len(chunk)


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 300))
def test_what_was_written_is_read_from_every_offset(tmp_path_factory: object, chunks: list[bytes], offset: int) -> None:
    folder = tmp_path_factory.mktemp("log")  # type: ignore[attr-defined]
    log = SegmentedLog(folder, segment_bytes=16, max_segments=1000)
    for chunk in chunks:
        log.write(chunk)
    whole = b"".join(chunks)
    assert log.end == len(whole)
    assert read_all(log, offset) == whole[offset:]
    log.close()


def test_the_oldest_segments_go_and_offsets_stay(tmp_path: Path) -> None:
    log = SegmentedLog(tmp_path, segment_bytes=10, max_segments=3)
    for number in range(10):
        log.write(f"line {number:04}\n".encode())
    assert len(list(tmp_path.iterdir())) == 3
    assert (log.begin, log.end) == (70, 100)
    assert log.read(0, 100) == (70, b"line 0007\n")
    assert log.read(85, 100) == (85, b"0008\n")
    assert log.read(100, 100) == (100, b"")


def test_a_log_goes_on_after_its_writer_was_killed(tmp_path: Path) -> None:
    first = SegmentedLog(tmp_path, segment_bytes=10)
    first.write(b"fourteen bytes")
    again = SegmentedLog(tmp_path, segment_bytes=10)
    again.write(b" and more")
    assert again.end == 23
    assert read_all(again, 0) == b"fourteen bytes and more"
