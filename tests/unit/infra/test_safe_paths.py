"""Names of tenants' files lead nowhere but into their folder."""

import os
from pathlib import Path

import pytest

from cloudcrest.infra.safe_paths import folder_bytes, open_inside, split_name
from cloudcrest.kernel.errors import InvalidInput, NotFound, TooLarge


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\x00b", "a\nb", "x" * 300, "a/" * 40 + "b", "\ud800"],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        split_name(name)


def test_a_file_is_written_and_read_below_the_folder(tmp_path: Path) -> None:
    descriptor = open_inside(tmp_path, "a/b/c.txt", os.O_WRONLY | os.O_CREAT, make_folders=True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"here")
    assert (tmp_path / "a/b/c.txt").read_bytes() == b"here"
    with os.fdopen(open_inside(tmp_path, "a/b/c.txt", os.O_RDONLY), "rb") as file:
        assert file.read() == b"here"


@pytest.mark.parametrize("name", ["link", "folder/secret", "up/secret", "pipe"])
def test_links_and_pipes_lead_nowhere(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of another")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    with pytest.raises(NotFound):
        open_inside(root, name, os.O_RDONLY)
    if name != "pipe":
        with pytest.raises(NotFound):
            open_inside(root, name, os.O_WRONLY | os.O_CREAT, make_folders=True)
    assert (outside / "secret").read_text() == "of another"


@pytest.mark.parametrize("hidden", ["a\nb", "/".join(["d"] * 60)])
def test_what_a_folder_holds_is_counted_whatever_it_is_called(tmp_path: Path, hidden: str) -> None:
    (tmp_path / hidden).mkdir(parents=True)
    (tmp_path / hidden / "big").write_bytes(b"x" * 1_000_000)
    assert folder_bytes(tmp_path) >= 1_000_000


def test_what_cannot_be_counted_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "/".join(["d"] * 120)).mkdir(parents=True)
    opened = _opened()
    with pytest.raises(TooLarge):
        folder_bytes(tmp_path)
    monkeypatch.setattr("cloudcrest.infra.safe_paths.MAX_ENTRIES", 5)
    with pytest.raises(TooLarge, match="more than 5 files"):
        folder_bytes(tmp_path)
    assert _opened() == opened


def _opened() -> int:
    """How many files this process has open; 0 where that cannot be seen."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
