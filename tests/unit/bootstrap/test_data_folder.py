"""The data folder: made, found again, and refused in one sentence that says what to do."""

import json
import os
import stat
from pathlib import Path

import pytest

from cloudcrest.bootstrap import data_folder
from cloudcrest.bootstrap.data_folder import DataFolder, UpState
from cloudcrest.kernel.errors import SetupError


def test_a_new_folder_has_its_version_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "deep" / "data")
    assert json.loads((folder.root / "VERSION").read_text()) == {"format": 1}
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    folder.close()


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    first = folder.secrets()
    folder.close()
    again = DataFolder.open(tmp_path / "data")
    assert again.secrets() == first
    assert stat.S_IMODE((again.root / "secrets.json").stat().st_mode) == 0o600
    assert len({first.first_api_key, first.operator_api_key, first.probe_api_key}) == 3
    assert first.first_api_key.startswith("sk-cc-")
    again.close()


def test_secrets_are_not_made_anew_for_a_database_that_needs_the_old_ones(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    folder.postgres.mkdir()
    (folder.postgres / "PG_VERSION").write_text("18")
    with pytest.raises(SetupError, match=r"secrets\.json is missing.*restore it"):
        folder.secrets()
    folder.close()


def test_a_second_cloud_is_refused_naming_the_first(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    folder.write_up_state(UpState(pid=os.getpid(), base_url="http://127.0.0.1:8080", started_at="now"))
    with pytest.raises(SetupError, match=rf"already runs on .* \(process {os.getpid()}, at http://127.0.0.1:8080\)"):
        DataFolder.open(tmp_path / "data")
    folder.close()
    DataFolder.open(tmp_path / "data").close()


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ('{"format": 2}', "written by a newer Cloudcrest .* upgrade|newer Cloudcrest"),
        ('{"format": 0}', "written by an older Cloudcrest"),
        ("hello", "no data folder of Cloudcrest"),
    ],
)
def test_a_folder_of_another_format_is_refused(tmp_path: Path, version: str, sentence: str) -> None:
    (tmp_path / "VERSION").write_text(version)
    with pytest.raises(SetupError, match=sentence):
        DataFolder.open(tmp_path)


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(SetupError, match="is no data folder of Cloudcrest"):
        DataFolder.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_file_in_its_place_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(SetupError, match="is a file, not a folder"):
        DataFolder.open(tmp_path / "data")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"has .* left, Cloudcrest needs .*free some space"):
        DataFolder.open(tmp_path / "data", min_free_bytes=10**18)
    assert not (tmp_path / "data").exists()


def test_a_cloud_that_was_ready_once_starts_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DataFolder.open(tmp_path / "data")
    folder.write_connection("http://127.0.0.1:8080", folder.secrets())
    folder.close()
    monkeypatch.setattr(data_folder, "free_bytes", lambda _: data_folder.MIN_FREE_BYTES_AGAIN)
    DataFolder.open(tmp_path / "data").close()
    with pytest.raises(SetupError, match="free some space"):
        DataFolder.open(tmp_path / "new")


def test_what_the_system_refuses_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data" / "run" / "lock").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"data folder .* cannot be used: .*run/lock.*another one with --data"):
        DataFolder.open(tmp_path / "data")


def test_a_start_killed_at_its_very_beginning_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "data" / "run").mkdir(parents=True)
    DataFolder.open(tmp_path / "data").close()


def test_sockets_of_a_deep_folder_go_where_paths_are_short(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / ("x" * 60) / ("y" * 60))
    assert folder.socket_folder != folder.run
    assert len(str(folder.socket_folder / "postgres" / ".s.PGSQL.5432.lock")) < 100
    assert stat.S_IMODE(folder.socket_folder.stat().st_mode) == 0o700
    folder.close()
    folder.socket_folder.rmdir()
