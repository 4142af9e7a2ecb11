"""What a person is told while a cloud starts."""

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


def test_database_urls_get_the_driver() -> None:
    assert database_url("postgres://me@host/db") == "postgresql+psycopg://me@host/db"
    with pytest.raises(SetupError, match="no PostgreSQL URL"):
        database_url("sqlite:///file")
