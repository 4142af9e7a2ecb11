"""What members of a node are promised of its disk together."""

from pathlib import Path

from cloudcrest.compute.jobs.runner.disk import DiskPromise, disk_room

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


def test_a_disk_has_room_for_what_is_free_and_for_what_its_members_have_written(tmp_path: Path) -> None:
    members = tmp_path / "work"
    empty = disk_room(members)  # it is made with the first member
    assert 0 < empty.room_bytes <= empty.size_bytes
    assert empty.room_bytes % (empty.size_bytes // 256) == 0
    promised = empty.size_bytes // 4  # nothing is written for real: the disk's steps are larger than a test's files
    first = DiskPromise(_member(members, "first"), lambda _: 10 * promised)
    assert first.take(promised) == ""
    first.wrote(promised // 2)
    assert disk_room(members).room_bytes > empty.room_bytes + promised // 3
    first.wrote(promised * 9)  # more than it was promised is no room of others
    assert disk_room(members).room_bytes <= empty.room_bytes + promised * 1.1
    first.release()
    assert disk_room(members).room_bytes < empty.room_bytes + promised // 3


def _member(members: Path, name: str) -> Path:
    (members / name / "work").mkdir(parents=True)
    return members / name
