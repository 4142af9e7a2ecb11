"""Where a node's Ray has its sockets and logs: in a folder that lets nobody else in."""

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from cloudcrest.bootstrap.ray_services import forget_sessions, invitation, ray_folder
from cloudcrest.compute.fabric.ray.command import RayStart
from cloudcrest.kernel.errors import SetupError

_LONGEST_SOCKET_PATH = 107
_SESSION = "session_2026-11-29_09-33-18_781903_4194304/sockets/plasma_store"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's folder for such things."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_what_ray_lets_everybody_write_to_is_reached_by_nobody_else(tmp_path: Path) -> None:
    folder = ray_folder(tmp_path / "data")
    forget_sessions(folder)
    folder.chmod(0o777)  # as Ray does
    folder.parent.chmod(0o777)  # as it did before
    for number in range(4):
        (folder / f"session_2026-{number}").mkdir()
    forget_sessions(folder)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert sorted(each.name for each in folder.iterdir()) == ["session_2026-2", "session_2026-3"]


def test_a_folder_that_another_user_made_first_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ray_folder(tmp_path / "data")
    folder.parent.symlink_to(tmp_path)
    with pytest.raises(SetupError, match="belongs to somebody else"):
        forget_sessions(folder)
    folder.parent.unlink()
    forget_sessions(folder)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(SetupError, match="belongs to somebody else"):
        forget_sessions(folder)


def test_a_cloud_on_loopback_does_not_invite_other_machines() -> None:
    path = Path("/t")
    start = RayStart("local", "10.0.0.5:6379", "10.0.0.5", path, path, path, path, {}, is_head=True)
    assert "Other machines join with: " in invitation(start)
    alone = invitation(dataclasses.replace(start, head="127.0.0.1:6379", address="127.0.0.1"))
    assert "No other machine can join, for want of --node-address" in alone
    assert "node join 127.0.0.1:6379 --data /t --token-file /t" in alone


def test_rays_sockets_have_paths_that_are_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")  # noqa: S108 - nothing is made there
    monkeypatch.setattr(os, "getuid", lambda: 1_000_000_000)
    assert len(str(ray_folder(Path("/data")) / _SESSION)) <= _LONGEST_SOCKET_PATH
