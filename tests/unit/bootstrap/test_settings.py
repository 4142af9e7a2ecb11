"""Flags, environment variables, and the settings files of processes."""

from pathlib import Path

import pytest

from cloudcrest.bootstrap.arguments import default_gateway_workers, up_settings
from cloudcrest.bootstrap.settings import LogSettings, UpSettings
from cloudcrest.bootstrap.settings_file import read_settings, write_settings
from cloudcrest.kernel.errors import SetupError

DATA = {"CLOUDCREST_DATA": "/srv/cloud"}


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = up_settings([], {"XDG_DATA_HOME": str(tmp_path), "CLOUDCREST_GATEWAY_WORKERS": "1"})
    assert settings == UpSettings(data=tmp_path / "cloudcrest")
    assert (settings.host, settings.port, settings.default_models) == ("127.0.0.1", 8080, True)


def test_the_environment_is_read_and_flags_win() -> None:
    environment = {**DATA, "CLOUDCREST_PORT": "9000", "CLOUDCREST_DEFAULT_MODELS": "false"}
    settings = up_settings(["--port", "9001", "--host", "::1"], environment)
    assert (settings.data, settings.port, settings.host) == (Path("/srv/cloud"), 9001, "::1")
    assert not settings.default_models


def test_origins_come_one_by_one_or_with_commas() -> None:
    origins = ("https://a.example", "https://b.example")
    flags = [part for origin in origins for part in ("--cors-origin", origin)]
    assert up_settings(flags, DATA).cors_origins == origins
    assert up_settings([], {**DATA, "CLOUDCREST_CORS_ORIGINS": ",".join(origins)}).cors_origins == origins


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tls-cert", "/etc/hostname"], "TLS needs a certificate and its key"),
        (["--tls-cert", "/no/cert", "--tls-key", "/no/key"], "there is no file /no/cert"),
        (["--port", "70000"], "70000 is no port"),
        (["--port", "eighty"], "port is not valid"),
        (["--gateway-workers", "0"], "0 gateway workers cannot be run"),
        (["--gateway-workers", "17"], "choose from 1 to 16 with --gateway-workers"),
    ],
)
def test_wrong_flags_are_said_in_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SetupError, match=sentence):
        up_settings(arguments, DATA)


def test_gateway_workers_sleep_unless_they_are_told_to_stay_awake() -> None:
    assert up_settings([], DATA).gateway_poll_seconds == 0
    assert up_settings([], {**DATA, "CLOUDCREST_GATEWAY_POLL_SECONDS": "0.1"}).gateway_poll_seconds == 0.1
    with pytest.raises(SetupError, match="CLOUDCREST_GATEWAY_POLL_SECONDS"):
        up_settings([], {**DATA, "CLOUDCREST_GATEWAY_POLL_SECONDS": "61"})


def test_gateway_workers_are_as_told_or_follow_the_cores() -> None:
    assert up_settings(["--gateway-workers", "3"], {**DATA, "CLOUDCREST_GATEWAY_WORKERS": "2"}).gateway_workers == 3
    assert up_settings([], {**DATA, "CLOUDCREST_GATEWAY_WORKERS": "2"}).gateway_workers == 2
    assert [default_gateway_workers(cores) for cores in (1, 2, 3, 8, 16, 128)] == [1, 1, 2, 2, 4, 8]


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(SetupError, match="CLOUDCREST_PORT"):
        up_settings([], {**DATA, "CLOUDCREST_PORT": "eighty"})


def test_settings_files_keep_paths_and_are_their_owners_alone(tmp_path: Path) -> None:
    settings = UpSettings(data=tmp_path, tls_cert=tmp_path / "cert.pem")
    write_settings(tmp_path / "up.json", settings)
    assert read_settings(tmp_path / "up.json", UpSettings) == settings
    assert (tmp_path / "up.json").stat().st_mode & 0o777 == 0o600


def test_wrong_settings_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"level": 1, "json": true}')
    with pytest.raises(SetupError, match=r"log\.json are wrong"):
        read_settings(tmp_path / "log.json", LogSettings)
    with pytest.raises(SetupError, match="cannot be read"):
        read_settings(tmp_path / "none.json", LogSettings)


@pytest.mark.parametrize(
    "flags",
    [
        ("--node-address", "10.0.0.5"),
        ("--node-label", "disk=fast"),
        ("--node-token-file", "/etc/token"),
        ("--ray-port", "7000"),
        ("--ray-address", "10.0.0.5:6379"),
    ],
)
def test_what_is_for_ray_is_refused_without_it(flags: tuple[str, ...]) -> None:
    with pytest.raises(SetupError, match=f"{flags[0][2:].partition('-')[0].upper()}_.* is for a cloud over Ray"):
        up_settings(flags, DATA)


def test_what_is_for_ray_is_taken_with_it() -> None:
    settings = up_settings(["--fabric", "ray", "--ray-port", "0", "--node-label", "disk=fast"], DATA)
    assert (settings.ray_port, settings.node_labels) == (0, ("disk=fast",))
