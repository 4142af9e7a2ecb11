"""Volumes: a project's own, held to their quota, and names that lead nowhere else."""

from pathlib import Path

import pytest

from cloudcrest.compute.volumes.folders import VolumeFolders, data_folder
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
