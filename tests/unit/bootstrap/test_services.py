"""What the processes of a cloud are told, and what is kept from them."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.bootstrap.data_folder import DataFolder
from cloudcrest.bootstrap.services import Plan, Sockets, replica_environment, service_environment
from cloudcrest.bootstrap.settings import UpSettings


def test_children_inherit_no_secrets_that_are_not_for_them() -> None:
    environment = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/lib",
        "TOKENIZERS_PARALLELISM": "false",
        "CLOUDCREST_OPERATOR_PASSWORD": "x",
        "CLOUDCREST_DATABASE_URL": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_TOKEN": "x",
        "openai_api_key": "x",
    }
    services = service_environment(environment)
    assert not any(name.startswith("CLOUDCREST_") for name in services)
    assert "AWS_SECRET_ACCESS_KEY" in services  # the region service fetches weights with it
    kept = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "TOKENIZERS_PARALLELISM": "false"}
    assert replica_environment(environment) == kept


def plan(tmp_path: Path, environment: Mapping[str, str] | None = None, **settings: Any) -> Plan:
    """Of a cloud that is not started."""
    with socket.socket() as unused:
        folder = DataFolder.open(tmp_path / "data", min_free_bytes=0)
        folder.close()
        return Plan(
            UpSettings(data=tmp_path, **settings),
            folder,
            folder.secrets(),
            Sockets((unused,), unused, unused, unused),
            "http://127.0.0.1:1",
            environment or {},
        )


@pytest.mark.parametrize(
    ("public_url", "is_secure"), [("https://cloud.example.com/", True), ("http://cloud.example.com", False)]
)
def test_cookies_are_secure_where_a_proxy_brings_tls(tmp_path: Path, public_url: str, is_secure: bool) -> None:
    assert plan(tmp_path, public_url=public_url).identity().secure_cookies is is_secure


def test_over_ray_a_node_is_waited_for_longer_unless_that_is_set(tmp_path: Path) -> None:
    assert plan(tmp_path).placement().lost_seconds == 3.0
    assert plan(tmp_path, fabric="ray").placement().lost_seconds == 10.0
    said = {"CLOUDCREST_PLACEMENT_LOST_SECONDS": "5"}
    assert plan(tmp_path, said, fabric="ray").placement().lost_seconds == 5.0
