"""How a person gets in: registering, logging in under a name, taking an invitation."""

import io
import json

import pytest

from cloudcrest.cli import credentials
from cloudcrest.cli.login import invitation_parts
from tests.unit.cli.conftest import Cli, FakeCloud

SESSION = {"csrf_token": "csrf", "organization_id": "org_1"}
COOKIE = {"set-cookie": "cloudcrest_session=s; Path=/"}


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("three unrelated words\n"))


def test_a_login_makes_the_profile_that_it_names(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("POST", "/api/v1/auth/login", SESSION, headers=COOKIE)
    assert cli("login", "--email", "ada@example.com", "--password-stdin", "--profile", "work") == 0
    assert credentials.require("work").email == "ada@example.com"
    cloud.answer("GET", "/v1/models", {"data": []})
    assert cli("login", "--key", "sk-cc-a", "--profile", "application") == 0
    assert credentials.require("application").key == "sk-cc-a"


def test_registering_makes_its_profile_on_the_cloud_that_is_known(cli: Cli, cloud: FakeCloud) -> None:
    credentials.save("default", credentials.Profile(url="http://cloud.test", key="sk-cc-a"))
    cloud.answer("POST", "/api/v1/auth/register", SESSION, 201, headers=COOKIE)
    command = ("register", "--email", "bob@example.com", "--password-stdin", "--profile", "bob")
    assert cli(*command, url=None) == 0
    assert credentials.require("bob").url == "http://cloud.test"


def test_a_forgotten_password_has_a_way_out(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("POST", "/api/v1/auth/login", {"detail": "wrong", "code": "invalid_login"}, 401)
    assert cli("login", "--email", "ada@example.com", "--password-stdin") == 1
    assert "http://cloud.test/password-reset" in capsys.readouterr().err


def test_an_invitation_is_taken_with_a_new_account_where_its_link_leads(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("POST", "/api/v1/invitations/accept", {"id": "mem_1"}, 201)
    cloud.answer("POST", "/api/v1/auth/login", SESSION, headers=COOKIE)
    link = "http://cloud.test/invitations#token=gq0X"
    assert cli("register", "--email", "ada@example.com", "--password-stdin", "--invitation", link, url=None) == 0
    sent = cloud.sent("POST", "/api/v1/invitations/accept")
    assert (sent["token"], sent["account"]["email"]) == ("gq0X", "ada@example.com")
    assert credentials.require(None).url == "http://cloud.test"


def test_an_invitation_is_taken_as_who_is_logged_in(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials.save("default", credentials.Profile(url="http://cloud.test", cookies={"a": "b"}, csrf="c"))
    cloud.answer("POST", "/api/v1/invitations/accept", {"id": "mem_1", "role": "viewer"}, 201)
    assert cli("members", "accept", "http://cloud.test/invitations#token=gq0X", "--format", "json", url=None) == 0
    assert cloud.sent("POST", "/api/v1/invitations/accept") == {"token": "gq0X"}
    assert json.loads(capsys.readouterr().out)["role"] == "viewer"


def test_an_invitation_brings_its_own_organization(cli: Cli) -> None:
    assert cli("register", "--invitation", "gq0X", "--organization", "Ours") == 2


@pytest.mark.parametrize(
    ("link", "parts"),
    [
        ("https://cloud.test:8080/invitations#token=a_-b", ("a_-b", "https://cloud.test:8080")),
        (" a_-b ", ("a_-b", None)),
        ("", ("", None)),
    ],
)
def test_the_parts_of_an_invitation(link: str, parts: tuple[str, str | None]) -> None:
    assert invitation_parts(link) == parts


def test_the_clouds_own_organization_is_meant_only_where_it_is_named(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    organizations = [
        {"id": "org_2", "name": "Cloudcrest system", "is_system": True},
        {"id": "org_1", "name": "Default organization", "is_system": False},
    ]
    projects = [
        {"id": "proj_2", "name": "default", "organization_id": "org_2", "archived_at": None},
        {"id": "proj_1", "name": "default", "organization_id": "org_1", "archived_at": None},
    ]
    cloud.answer("GET", "/api/v1/organizations", {"data": organizations, "next_cursor": None})
    cloud.answer("GET", "/api/v1/projects", {"data": projects, "next_cursor": None})
    cloud.answer("POST", "/api/v1/keys", {"id": "key_1", "key": "sk-cc-x"}, 201)
    cloud.answer("GET", "/api/v1/organizations/org_1/members", {"data": [], "next_cursor": None})
    cloud.answer("GET", "/api/v1/organizations/org_2/members", {"data": [], "next_cursor": None})
    assert cli("keys", "create", "my-app") == 0
    assert cloud.sent("POST", "/api/v1/keys")["project_id"] == "proj_1"
    assert cli("members", "list", "--format", "json") == 0
    assert cli("members", "list", "--org", "Cloudcrest system", "--format", "json") == 0
    assert [request.url.path for request in cloud.requests if request.url.path.endswith("members")] == [
        "/api/v1/organizations/org_1/members",
        "/api/v1/organizations/org_2/members",
    ]
