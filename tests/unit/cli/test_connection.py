"""Where a command finds its cloud: flags, environment, profile, data folder, in this order."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from cloudcrest.cli import credentials
from cloudcrest.cli.connection import inference, management, of_jobs
from cloudcrest.cli.errors import Unreachable, WrongUsage
from cloudcrest.cli.options import Options
from cloudcrest.kernel.errors import SetupError


def write_connection(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "connection.json").write_text(
        json.dumps({"base_url": "http://127.0.0.1:1234", "api_key": "first", "operator_key": "operator"})
    )


def test_the_data_folder_gives_the_operators_key_to_management_alone(home: Path) -> None:
    write_connection(home / "share" / "cloudcrest")
    assert management(Options(), {"XDG_DATA_HOME": str(home / "share")}).key == "operator"
    found = inference(Options(), {"XDG_DATA_HOME": str(home / "share")})
    assert (found.base_url, found.key) == ("http://127.0.0.1:1234", "first")
    assert of_jobs(Options(), {"XDG_DATA_HOME": str(home / "share")}) == found  # it may manage its project, too


def test_who_has_no_key_for_jobs_is_told_how_to_make_one(home: Path) -> None:
    with pytest.raises(WrongUsage) as refused:
        of_jobs(Options(url="http://127.0.0.1:1"), {"XDG_DATA_HOME": str(home)})
    assert "--scope management" in (refused.value.hint or "")


def test_what_runs_there_now_is_believed_before_what_was_written_when_it_was_last_ready(home: Path) -> None:
    data = home / "data"
    (data / "run").mkdir(parents=True)
    (data / "secrets.json").write_text(json.dumps({"first_api_key": "first", "operator_api_key": "operator"}))
    state = {"pid": 7, "base_url": "https://127.0.0.1:4321", "certificate": "/etc/chain.pem"}
    (data / "run" / "up.json").write_text(json.dumps(state))
    descriptor = os.open(data / "run" / "lock", os.O_CREAT | os.O_RDWR)
    with pytest.raises(Unreachable, match="no cloud is known"):
        management(Options(data=data), {})
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    found = management(Options(data=data), {})
    assert (found.base_url, found.key, found.certificate) == ("https://127.0.0.1:4321", "operator", "/etc/chain.pem")
    assert inference(Options(data=data), {}).key == "first"
    assert inference(Options(data=data, key="mine"), {}).certificate == "/etc/chain.pem"
    (data / "connection.json").write_text(json.dumps({"base_url": "http://127.0.0.1:1234", "api_key": "later"}))
    assert management(Options(data=data), {}).base_url == "https://127.0.0.1:4321"
    os.close(descriptor)
    assert management(Options(data=data), {}).base_url == "http://127.0.0.1:1234"


def test_a_default_profile_goes_before_the_data_folder_unless_that_is_asked_for(home: Path) -> None:
    write_connection(home / "data")
    credentials.save("default", credentials.Profile(url="https://cloud.test", key="mine"))
    assert management(Options(), {}).key == "mine"
    assert management(Options(data=home / "data"), {}).key == "operator"
    assert management(Options(), {"CLOUDCREST_DATA": str(home / "data")}).key == "operator"


def test_flags_go_before_the_environment(home: Path) -> None:
    environment = {"CLOUDCREST_URL": "http://env.test", "CLOUDCREST_API_KEY": "env"}
    found = management(Options(url="http://flag.test/"), environment)
    assert (found.base_url, found.key) == ("http://flag.test", "env")
    assert management(Options(key="flag"), environment).key == "flag"


def test_no_key_of_one_cloud_goes_to_another(home: Path) -> None:
    credentials.save("default", credentials.Profile(url="https://cloud.test", key="mine"))
    write_connection(home / "share" / "cloudcrest")
    assert management(Options(url="https://elsewhere.test"), {}).key is None


def test_nothing_known_says_how_to_begin(home: Path) -> None:
    with pytest.raises(Unreachable, match="cloudcrest up"):
        management(Options(), {"XDG_DATA_HOME": str(home)})


def test_unknown_profiles_and_odd_addresses_are_refused(home: Path) -> None:
    with pytest.raises(WrongUsage, match="no profile 'work'"):
        management(Options(profile="work"), {})
    with pytest.raises(WrongUsage, match="no address"):
        management(Options(url="cloud.test"), {})


def test_credentials_are_for_their_owner_alone(home: Path) -> None:
    path = credentials.save("default", credentials.Profile(url="https://cloud.test", key="mine"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert credentials.forget("default")
    assert not credentials.forget("default")


def test_a_broken_file_is_one_sentence(home: Path) -> None:
    path = credentials.path()
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(SetupError, match=r"credentials\.json cannot be read"):
        credentials.load()
    path.write_text('{"profiles": {"default": {}}}')
    with pytest.raises(SetupError, match="makes no sense"):
        credentials.load()
