"""What a person is told while a cloud starts."""

import sys
from pathlib import Path

import msgspec
import pytest

from cloudcrest.bootstrap.arguments import database_url
from cloudcrest.bootstrap.ready import Deployment, describe
from cloudcrest.bootstrap.ui import welcome
from cloudcrest.kernel.errors import SetupError


def deployment(**fields: object) -> Deployment:
    plain = {"name": "smollm2", "task": "chat", "engine": "llamacpp", "state": "starting", "replicas": {"min": 1}}
    return msgspec.convert({**plain, **fields}, Deployment)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reason": "region 'local' has not picked it up yet"}, "smollm2: region 'local' has not picked it up yet"),
        (
            {
                "replica_states": [
                    {"pull": {"phase": "downloading", "done_bytes": 49_000_000, "total_bytes": 98_000_000}}
                ]
            },
            "smollm2: downloading, 49.0 MB of 98.0 MB",
        ),
        ({"replica_states": [{"pull": {"phase": "verifying"}}]}, "smollm2: verifying"),
        ({"state": "ready"}, "Asking a first question"),
    ],
)
def test_progress_is_one_line(fields: dict[str, object], said: str) -> None:
    assert describe([deployment(**fields)]) == said


@pytest.mark.parametrize(
    "fields", [{"engine": "upstream"}, {"replicas": {"min": 0}}, {"organization_id": "org_somebody"}]
)
def test_what_costs_money_is_stopped_or_is_somebodys_is_not_asked(fields: dict[str, object]) -> None:
    assert not deployment(**fields).is_ours


def test_the_welcome_has_the_key_and_three_commands() -> None:
    said = welcome("http://127.0.0.1:8080", "sk-cc-key", "smollm2", "/srv/cloud")
    assert all(part in said for part in ("http://127.0.0.1:8080/v1", "sk-cc-key", "curl", "openai", "cloudcrest chat"))


def test_the_welcome_calls_the_command_line_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "cloudcrest"
    default = str(tmp_path / "cloudcrest")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.chdir(tmp_path)
    assert f'  {script} chat "What is a cloud?"\n' in welcome("http://a", "sk-cc-key", "m", default)
    monkeypatch.chdir(script.parent.parent)
    assert '  bin/cloudcrest chat "What is a cloud?"\n' in welcome("http://a", "sk-cc-key", "m", default)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/cloudcrest")
    assert '  cloudcrest chat "What is a cloud?" --data /srv/a\n' in welcome("http://a", "sk-cc-key", "m", "/srv/a")


def test_database_urls_get_the_driver() -> None:
    assert database_url("postgres://me@host/db") == "postgresql+psycopg://me@host/db"
    with pytest.raises(SetupError, match="no PostgreSQL URL"):
        database_url("sqlite:///file")
