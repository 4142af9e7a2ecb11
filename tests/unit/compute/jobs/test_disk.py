"""What members of a node are promised of its disk together."""

from pathlib import Path

from cloudcrest.compute.jobs.runner.disk import DiskPromise

MB = 1_000_000


def _promise(folder: Path, name: str, free_bytes: int) -> DiskPromise:
    (folder / name / "work").mkdir(parents=True, exist_ok=True)
    return DiskPromise(folder / name, lambda _: free_bytes)


def test_no_more_is_promised_than_is_free(tmp_path: Path) -> None:
    first, second = _promise(tmp_path, "first", 100 * MB), _promise(tmp_path, "second", 100 * MB)
    assert first.take(60 * MB) == ""
    problem = second.take(60 * MB)
    assert problem == (
        "it asks for 60.0 MB of disk, and its node has 100.0 MB free, 60.0 MB of that promised to other jobs"
    )
    assert second.take(40 * MB) == ""


def test_what_a_member_has_written_is_not_counted_twice(tmp_path: Path) -> None:
    first = _promise(tmp_path, "first", 100 * MB)
    assert first.take(60 * MB) == ""
    (tmp_path / "first/work/file").write_bytes(b"x" * 20 * MB)
    assert _promise(tmp_path, "second", 80 * MB).take(40 * MB) == ""  # 20 of its 60 are gone from what is free


def test_who_has_ended_or_was_killed_is_promised_nothing(tmp_path: Path) -> None:
    first = _promise(tmp_path, "first", 100 * MB)
    assert first.take(100 * MB) == ""
    second = _promise(tmp_path, "second", 100 * MB)
    assert second.take(1) != ""
    first.release()
    first.release()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/disk").write_text(str(100 * MB))  # nobody holds it
    assert second.take(100 * MB) == ""
