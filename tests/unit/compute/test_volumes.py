"""Volumes: a project's own, held to their quota, and names that lead nowhere else."""

import time
from pathlib import Path

import pytest

from cloudcrest.compute.volumes.folders import VolumeFolders, data_folder
from cloudcrest.compute.volumes.room import Rooms
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound, TooLarge


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeFolders:
    return VolumeFolders(tmp_path, most=2, most_bytes=1_000_000, now=lambda: 12.0)


def put(volumes: VolumeFolders, name: str, content: bytes, volume: str = "v") -> None:
    incoming = volumes.receive("p", volume, name)
    try:
        incoming.write(content)
        incoming.commit()
    finally:
        incoming.discard()


def names(volumes: VolumeFolders, prefix: str = "", after: str = "", limit: int = 10) -> list[str]:
    return [each.name for each in volumes.objects("p", "v", prefix=prefix, after=after, limit=limit)]


def test_what_is_put_is_listed_read_and_removed(volumes: VolumeFolders) -> None:
    volumes.create("p", "v")
    put(volumes, "a/b.txt", b"one")
    put(volumes, "a/c.txt", b"two")
    put(volumes, "z", b"three")
    put(volumes, "z", b"3")
    assert names(volumes) == ["a/b.txt", "a/c.txt", "z"]
    assert names(volumes, prefix="a/") == ["a/b.txt", "a/c.txt"]
    assert names(volumes, after="a/b.txt", limit=1) == ["a/c.txt"]
    with volumes.open("p", "v", "z") as file:
        assert file.read() == b"3"
    volumes.remove("p", "v", "a/b.txt")
    assert names(volumes) == ["a/c.txt", "z"]
    with pytest.raises(NotFound):
        volumes.open("p", "v", "a/b.txt")
    with pytest.raises(InvalidInput):
        put(volumes, "a", b"where a folder is")
    with pytest.raises(InvalidInput):
        volumes.remove("p", "v", "a")


def test_another_projects_volume_is_not_there(volumes: VolumeFolders) -> None:
    volumes.create("p", "v")
    put(volumes, "mine", b"x")
    with pytest.raises(NotFound):
        volumes.find("other", "v")
    assert volumes.volumes("other") == []
    for name in ("../p/v", "..", ".", "", "V", "a/b"):
        with pytest.raises(InvalidInput):
            volumes.find("other", name)
        with pytest.raises(InvalidInput):
            data_folder(Path("x"), "other", name)
    with pytest.raises(InvalidInput):
        volumes.find("../p", "v")


def test_a_link_that_a_job_leaves_leads_nowhere(volumes: VolumeFolders, tmp_path: Path) -> None:
    volumes.create("p", "v")
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    data = data_folder(tmp_path, "p", "v")
    (data / "link").symlink_to(secret)
    (data / "out").symlink_to(tmp_path)
    assert names(volumes) == []
    for name in ("link", "out/secret"):
        with pytest.raises(NotFound):
            volumes.open("p", "v", name)
    with pytest.raises(NotFound):
        put(volumes, "out/made", b"x")
    put(volumes, "link", b"replaces the link itself")
    assert secret.read_text() == "of the host"
    assert not (tmp_path / "made").exists()
    volumes.delete("p", "v")
    assert secret.exists()


def test_quotas_hold_and_what_is_refused_leaves_nothing(volumes: VolumeFolders, tmp_path: Path) -> None:
    volumes.create("p", "v", quota_bytes=20_000)
    put(volumes, "a", b"x" * 8000)
    with pytest.raises(TooLarge):
        put(volumes, "b", b"x" * 13_000)
    assert names(volumes) == ["a"]
    assert list((tmp_path / "volumes/p/v/incoming").iterdir()) == []
    volumes.create("p", "w")
    with pytest.raises(LimitExceeded):
        volumes.create("p", "third")
    with pytest.raises(Conflict):
        volumes.create("p", "w")
    with pytest.raises(InvalidInput):
        volumes.create("p", "x", quota_bytes=2_000_000)
    volumes.delete("p", "w")
    assert [volume.name for volume in volumes.volumes("p")] == ["v"]
    assert [path.name for path in (tmp_path / "volumes/p").iterdir()] == ["v"]


def test_uploads_at_once_share_what_is_left(volumes: VolumeFolders) -> None:
    volumes.create("p", "v", quota_bytes=20_000)
    first, second = volumes.receive("p", "v", "a"), volumes.receive("p", "v", "b")
    first.write(b"x" * 8000)
    second.write(b"x" * 8000)
    with pytest.raises(TooLarge, match="being uploaded"):
        second.write(b"x" * 8000)
    second.discard()
    third = volumes.receive("p", "v", "c")
    third.write(b"x" * 4000)
    first.commit()
    with pytest.raises(TooLarge):
        third.write(b"x" * 9000)  # what was committed meanwhile counts, though it was not there to be measured
    third.write(b"x" * 7000)
    third.commit()
    for upload in (first, third, third):
        upload.discard()
    assert names(volumes) == ["a", "c"]
    volumes.remove("p", "v", "a")
    put(volumes, "a", b"x" * 7000)  # and what was discarded or removed does not


def test_what_is_committed_while_it_is_measured_counts() -> None:
    rooms = Rooms()
    first = rooms.enter("v", 100, lambda: 0)
    first.take(60)

    def measure() -> int:
        first.keep()
        return 0  # it looked where the first is now before it was there

    second = rooms.enter("v", 100, measure)
    with pytest.raises(TooLarge):
        second.take(41)
    second.take(40)


def test_what_a_killed_process_has_left_is_swept(volumes: VolumeFolders, tmp_path: Path) -> None:
    volumes.create("p", "v")
    put(volumes, "kept", b"x")
    project = tmp_path / "volumes/p"
    (project / ".gone-1/data").mkdir(parents=True)
    (project / ".gone-1/data/file").write_text("of a volume that was deleted")
    now = time.time()
    late = VolumeFolders(tmp_path, most=2, most_bytes=1, now=lambda: now)
    (project / ".new-1").mkdir()
    arriving = volumes.receive("p", "v", "slow")
    assert late.sweep() == 1
    assert sorted(path.name for path in project.iterdir()) == [".new-1", "v"]
    arriving.write(b"x")
    arriving.commit()
    arriving.discard()
    (project / "v/incoming/left").write_text("half a file")
    a_day_on = VolumeFolders(tmp_path, most=2, most_bytes=1, now=lambda: now + 90_000)
    assert a_day_on.sweep() == 2
    assert a_day_on.sweep() == 0
    assert names(volumes) == ["kept", "slow"]
    assert [path.name for path in project.iterdir()] == ["v"]
