"""What commands send, print, and end with."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.cli import credentials
from cloudcrest.cli.deployments import engine_option
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.identity.api import Limits
from tests.unit.cli.conftest import Cli, FakeCloud

KEY = {
    "id": "key_1",
    "name": "search",
    "prefix": "sk-cc-abc",
    "project_id": "proj_1",
    "scopes": ["inference"],
    "models": None,
    "limits": {"requests_per_minute": 60, "tokens_per_minute": None, "concurrent_requests": None},
    "labels": {},
    "expires_at": None,
    "revoked_at": None,
}
PROJECTS = {"data": [{"id": "proj_1", "name": "default", "archived_at": None}], "next_cursor": None}


def events(*parts: Any, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps({'choices': [{'delta': {'content': part}}]})}\n\n" for part in parts]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def test_a_list_follows_every_page(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/keys", {"data": [KEY], "next_cursor": "key_1"})
    cloud.answer("GET", "/api/v1/keys", {"data": [{**KEY, "id": "key_0"}], "next_cursor": None})
    assert cli("keys", "list", "--format", "json") == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)] == ["key_1", "key_0"]
    assert cloud.requests[1].url.params["cursor"] == "key_1"


def test_a_table_is_for_people_and_says_when_it_is_empty(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.answer("GET", "/api/v1/keys", {"data": [KEY], "next_cursor": None})
    cloud.answer("GET", "/api/v1/keys", {"data": [], "next_cursor": None})
    assert cli("keys", "list") == 0
    assert "requests_per_minute=60" in capsys.readouterr().out
    assert cli("keys", "list") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "cloudcrest keys create" in captured.err


def test_a_new_key_stands_alone_on_stdout(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/projects", PROJECTS)
    cloud.answer("POST", "/api/v1/keys", {**KEY, "key": "sk-cc-secret"}, 201)
    assert cli("keys", "create", "search", "--label", "team=a", "--expires-at", "2027-01-31", "--model", "m") == 0
    assert capsys.readouterr().out == "sk-cc-secret\n"
    assert cloud.sent("POST", "/api/v1/keys") == {
        "name": "search",
        "project_id": "proj_1",
        "scopes": ["inference"],
        "models": ["m"],
        "expires_at": "2027-01-31T00:00:00Z",
        "labels": {"team": "a"},
    }


def test_every_limit_of_a_key_has_a_flag(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("PATCH", "/api/v1/keys/key_1", KEY)
    cloud.answer("GET", "/api/v1/keys/key_1", KEY)
    flags = [part for name in Limits.__struct_fields__ for part in (f"--{name.replace('_', '-')}", "7")]
    cli("keys", "update", "key_1", *flags)
    assert cloud.sent("PATCH", "/api/v1/keys/key_1")["limits"] == dict.fromkeys(Limits.__struct_fields__, 7)


def test_a_model_that_nobody_serves_is_told_of(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/projects", PROJECTS)
    cloud.answer("POST", "/api/v1/keys", {**KEY, "key": "sk-cc-secret"}, 201)
    cloud.answer("GET", "/api/v1/deployments", {"data": [{"name": "smollm2"}, {"name": "minilm"}], "next_cursor": None})
    assert cli("keys", "create", "search", "--model", "smolm2", "--model", "minilm") == 0
    captured = capsys.readouterr()
    assert captured.out == "sk-cc-secret\n"
    assert "'smolm2' is not served now; there is: smollm2, minilm. `cloudcrest keys update key_1" in captured.err
    assert "'minilm' is not" not in captured.err
    cloud.answer("PATCH", "/api/v1/keys/key_1", KEY)
    assert cli("keys", "update", "key_1", "--model", "zzz") == 0
    assert "'zzz' is not served now; there is: minilm, smollm2" in capsys.readouterr().err


def test_status_does_not_wait_for_long(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("GET", "/api/v1/deployments", {"data": [], "next_cursor": None})
    assert cli("status") == 0
    assert cloud.requests[-1].extensions["timeout"]["read"] <= 5


def test_an_update_keeps_the_limits_that_are_not_given(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("GET", "/api/v1/keys/key_1", KEY)
    cloud.answer("PATCH", "/api/v1/keys/key_1", KEY)
    assert cli("keys", "update", "key_1", "--concurrent-requests", "2") == 0
    limits = cloud.sent("PATCH", "/api/v1/keys/key_1")["limits"]
    assert (limits["requests_per_minute"], limits["concurrent_requests"]) == (60, 2)
    assert cli("keys", "update", "key_1") == 2


def test_a_canary_is_made_and_given_more(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    canary = DEPLOYMENT | {"id": "dep_2", "weight": 5}
    cloud.answer("POST", "/api/v1/deployments", canary, 201)
    cloud.answer("PATCH", "/api/v1/deployments/dep_2", canary)
    assert cli("deployments", "create", "other", "--name", "small", "--weight", "5") == 0
    sent = cloud.sent("POST", "/api/v1/deployments")
    assert (sent["name"], sent["weight"]) == ("small", 5)
    assert cli("deployments", "update", "dep_2", "--weight", "0") == 0
    assert cloud.sent("PATCH", "/api/v1/deployments/dep_2") == {"weight": 0}
    assert "weight" in capsys.readouterr().out


def test_a_project_gets_fallbacks_beside_those_it_has(cli: Cli, cloud: FakeCloud) -> None:
    project = {"id": "proj_1", "name": "p", "limits": {"tokens_per_minute": 5}, "fallbacks": {"a": ["b"], "c": ["d"]}}
    cloud.answer("GET", "/api/v1/projects/proj_1", project)
    cloud.answer("PATCH", "/api/v1/projects/proj_1", project)
    assert cli("projects", "update", "proj_1", "--fallback", "e=f, g", "--fallback", "a=") == 0
    assert cloud.sent("PATCH", "/api/v1/projects/proj_1") == {"fallbacks": {"c": ["d"], "e": ["f", "g"]}}
    assert cli("projects", "update", "proj_1", "--fallback", "e") == 2
    assert cli("projects", "update", "proj_1") == 2


def test_a_project_gets_guardrails_beside_those_it_has(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = {"input": {"pii": "flag", "card": "block"}, "output": {"pii": "flag"}}
    project = {"id": "proj_1", "name": "p", "limits": {}, "fallbacks": {}, "guardrails": rules}
    cloud.answer("GET", "/api/v1/projects/proj_1", project)
    cloud.answer("PATCH", "/api/v1/projects/proj_1", project)
    given = ("--guardrail", "secrets=block", "--guardrail", "input.card=", "--guardrail", "output.email=off")
    assert cli("projects", "update", "proj_1", *given) == 0
    assert cloud.sent("PATCH", "/api/v1/projects/proj_1") == {
        "guardrails": {
            "input": {"pii": "flag", "secrets": "block"},
            "output": {"pii": "flag", "secrets": "block", "email": "off"},
        }
    }
    assert "pii=flag input.card=block" in capsys.readouterr().out
    for wrong in ("pii", "pii=hide", "before.pii=flag", "=flag"):
        assert cli("projects", "update", "proj_1", "--guardrail", wrong) == 2


def test_an_organization_gets_the_least_guardrails(cli: Cli, cloud: FakeCloud) -> None:
    organization = {"id": "org_1", "name": "o", "limits": {}, "guardrails": {"input": {}, "output": {}}}
    cloud.answer("GET", "/api/v1/organizations/org_1", organization)
    cloud.answer("PATCH", "/api/v1/organizations/org_1", organization)
    assert cli("orgs", "update", "org_1", "--guardrail", "input.moderation=block") == 0
    assert cloud.sent("PATCH", "/api/v1/organizations/org_1") == {
        "guardrails": {"input": {"moderation": "block"}, "output": {}}
    }
    assert cli("orgs", "update", "org_1") == 2


def test_a_projects_time_keeps_its_other_limits(cli: Cli, cloud: FakeCloud) -> None:
    project = {"id": "proj_1", "name": "p", "limits": {"tokens_per_minute": 5}, "fallbacks": {}}
    cloud.answer("GET", "/api/v1/projects/proj_1", project)
    cloud.answer("PATCH", "/api/v1/projects/proj_1", project)
    assert cli("projects", "update", "proj_1", "--request-timeout-seconds", "60") == 0
    sent = cloud.sent("PATCH", "/api/v1/projects/proj_1")
    assert sent == {"limits": {"tokens_per_minute": 5, "request_timeout_seconds": 60}}


def test_more_than_one_project_asks_which(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    two = [{"id": f"proj_{name}", "name": name, "archived_at": None} for name in ("a", "b")]
    cloud.answer("GET", "/api/v1/projects", {"data": two, "next_cursor": None})
    cloud.answer("GET", "/api/v1/organizations", {"data": [], "next_cursor": None})
    assert cli("keys", "create", "search") == 2
    assert "proj_a (a), proj_b (b)" in capsys.readouterr().err


def test_errors_are_a_sentence_a_hint_and_a_code(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.answer("GET", "/api/v1/keys", {"detail": "no such key", "code": "invalid_api_key", "status": 401}, 401)
    assert cli("keys", "list") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cloudcrest: no such key\n  → log in")
    assert cli("keys", "lisst") == 2
    assert cli("keys", "list", url="http://down.test") == 3
    assert cli("keys", "list", url=None) == 3


def test_an_answer_that_is_no_json_is_refused(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/regions", b"<html>")
    assert cli("regions", "list") == 1
    assert "did not answer with JSON" in capsys.readouterr().err


def test_chat_prints_the_answer_and_nothing_else(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [{"id": "embedder", "task": "embedding"}, {"id": "small", "task": "chat"}]
    cloud.answer("GET", "/v1/models", {"data": listed})
    cloud.answer("POST", "/v1/chat/completions", events("Hel", "lo", None))
    assert cli("chat", "Hi", "--system", "Be kind", "--max-tokens", "5", "--key", "sk-cc-x") == 0
    captured = capsys.readouterr()
    assert captured.out == "Hello\n"
    assert captured.err == ""
    sent = cloud.sent("POST", "/v1/chat/completions")
    assert sent["model"] == "small"
    assert sent["messages"] == [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    assert (sent["stream"], sent["max_tokens"]) == (True, 5)


@pytest.mark.parametrize("body", [events("Hel", done=False), b'data: {"error": {"message": "engine died"}}\n\n'])
def test_a_broken_answer_is_a_failure(cli: Cli, cloud: FakeCloud, body: bytes) -> None:
    cloud.answer("POST", "/v1/chat/completions", body)
    assert cli("chat", "Hi", "--model", "m", "--key", "sk-cc-x") == 1


def test_a_conversation_remembers_and_survives_an_error(
    cli: Cli, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["one", "two", "three"])

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    cloud.answer("POST", "/v1/chat/completions", events("first"))
    cloud.answer("POST", "/v1/chat/completions", {"error": {"message": "too many", "code": "rate"}}, 429)
    cloud.answer("POST", "/v1/chat/completions", events("third"))
    assert cli("chat", "--model", "m", "--key", "sk-cc-x") == 0
    assert "too many" in capsys.readouterr().err
    said = [message["content"] for message in cloud.sent("POST", "/v1/chat/completions")["messages"]]
    assert said == ["one", "first", "three"]


def test_a_pull_is_followed_to_its_end(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/api/v1/model-pulls"
    ended = {"phase": "ready", "done_bytes": 98_362_432, "total_bytes": 98_362_432}
    cloud.answer("POST", path, {"id": "pull_1", "model": "m", "region": "local"}, 201)
    cloud.answer("GET", f"{path}/pull_1", {"id": "pull_1", "model": "m", "region": "local", "progress": ended})
    assert cli("models", "pull", "m") == 0
    assert capsys.readouterr().out == "m in local: ready, 98.4 MB\n"


def test_a_session_is_kept_with_its_csrf_token(cli: Cli, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = {"set-cookie": "cloudcrest_session=abc; Path=/; HttpOnly"}
    cloud.answer("POST", "/api/v1/auth/login", {"csrf_token": "csrf", "user": {}}, headers=cookie)
    cloud.answer("POST", "/api/v1/organizations", {"id": "org_1", "name": "x"}, 201)
    monkeypatch.setattr("sys.stdin.readline", lambda: "three unrelated words\n", raising=False)
    assert cli("login", "--email", "ada@example.com", "--password-stdin") == 0
    assert cloud.sent("POST", "/api/v1/auth/login")["password"] == "three unrelated words"
    profile = credentials.load().profiles["default"]
    assert (profile.csrf, profile.cookies) == ("csrf", {"cloudcrest_session": "abc"})
    assert cli("orgs", "create", "x", url=None) == 0
    assert cloud.requests[-1].headers["x-csrf-token"] == "csrf"
    assert "cloudcrest_session=abc" in cloud.requests[-1].headers["cookie"]


def test_a_kept_key_is_for_chat_and_the_session_for_the_rest(cli: Cli, cloud: FakeCloud) -> None:
    cookies = {"cloudcrest_session": "abc"}
    credentials.save("default", credentials.Profile(url="http://cloud.test", cookies=cookies, csrf="csrf"))
    assert cli("chat", "Hi", "--model", "m", url=None) == 2
    cloud.answer("GET", "/api/v1/projects", PROJECTS)
    cloud.answer("POST", "/api/v1/keys", {**KEY, "key": "sk-cc-secret"}, 201)
    assert cli("keys", "create", "mine", "--keep", url=None) == 0
    assert "authorization" not in cloud.requests[-1].headers
    cloud.answer("POST", "/v1/chat/completions", events("Hello"))
    assert cli("chat", "Hi", "--model", "m", url=None) == 0
    assert cloud.requests[-1].headers["authorization"] == "Bearer sk-cc-secret"
    assert "cookie" not in cloud.requests[-1].headers
    assert cli("keys", "create", "mine", "--keep", "--profile", "none") == 2


def test_a_key_is_checked_before_it_is_kept(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("GET", "/v1/models", {"error": {"message": "unknown key"}}, 401)
    assert cli("login", "--key", "sk-cc-x") == 1
    assert credentials.load().profiles == {}


def test_help_and_version_need_no_cloud(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in (["--help"], ["keys", "create", "--help"], ["version"], ["--version"]):
        assert cli(*tokens, url=None) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_down_and_logs_without_a_cloud(cli: Cli, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("down", "--data", str(home / "data"), url=None) == 0
    assert cli("logs", "--data", str(home / "data"), url=None) == 1
    assert "nothing was logged yet" in capsys.readouterr().err


DEPLOYMENT = {
    "id": "dep_1",
    "name": "small",
    "model": "small",
    "engine": "llamacpp",
    "region": "local",
    "state": "ready",
    "reason": None,
    "generation": 1,
    "replicas": {"min": 1, "max": 1, "ready": 1},
    "replica_states": [{"id": "rep_1", "generation": 1, "state": "ready", "restarts": 0, "reason": None}],
}


def test_a_deployment_is_made_and_waited_for(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    starting = {**DEPLOYMENT, "state": "starting", "reason": "its weights are being fetched"}
    cloud.answer("POST", "/api/v1/deployments", starting, 201)
    cloud.answer("GET", "/api/v1/deployments/dep_1", DEPLOYMENT)
    options = [
        "--memory",
        "2GiB",
        "--slots",
        "2",
        "--engine-option",
        "speed=1.5",
        "--engine-option",
        "base_url=http://x",
        *("--accelerators", "2", "--accelerator-type", "h100", "--accelerator-type", "910b"),
        *("--spread", "rack", "--node-label", "disk=fast", "--tolerate", "models-only"),
    ]
    assert cli("deployments", "create", "small", "--wait", *options) == 0
    assert cloud.sent("POST", "/api/v1/deployments") == {
        "model": "small",
        "region": "local",
        "replicas": {"min": 1, "max": 1},
        "slots": 2,
        "resources": {"memory_bytes": 2 * 1024**3, "cpu_threads": None},
        "engine_options": {"speed": 1.5, "base_url": "http://x"},
        "placement": {
            "accelerators": 2,
            "accelerator_types": ["h100", "910b"],
            "spread": "rack",
            "node_labels": {"disk": "fast"},
            "tolerations": ["models-only"],
        },
    }
    out = capsys.readouterr().out
    assert "1/1" in out
    assert "rep_1" in out


def test_an_engine_option_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret\n")
    assert engine_option(f"api_key=@{tmp_path / 'key'}") == ("api_key", "sk-secret")
    with pytest.raises(WrongUsage, match="cannot be read"):
        engine_option(f"api_key=@{tmp_path / 'none'}")


@pytest.mark.parametrize(("newest", "code"), [("ready", 0), ("backoff", 1)])
def test_a_change_is_waited_for_although_what_was_before_serves(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str], newest: str, code: int
) -> None:
    before = {"id": "rep_1", "generation": 1, "state": "ready", "restarts": 0, "reason": None}
    changed = {**DEPLOYMENT, "generation": 2, "reason": "its latest change is being rolled out: needs 2 GB memory"}
    coming = {**before, "id": "rep_2", "generation": 2, "state": newest}
    cloud.answer("GET", "/api/v1/deployments", {"data": [DEPLOYMENT], "next_cursor": None})
    cloud.answer("PATCH", "/api/v1/deployments/dep_1", changed)
    cloud.answer("GET", "/api/v1/deployments/dep_1", {**changed, "replica_states": [before, coming]})
    assert cli("deployments", "update", "small", "--slots", "8", "--wait") == code
    shown = capsys.readouterr()
    assert "rep_2" in shown.out if code == 0 else "cannot run: its latest change" in shown.err


def test_a_deployment_that_fails_says_why(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/deployments", {"data": [DEPLOYMENT], "next_cursor": None})
    cloud.answer("PATCH", "/api/v1/deployments/dep_1", DEPLOYMENT)
    cloud.answer("GET", "/api/v1/deployments/dep_1", {**DEPLOYMENT, "state": "failed", "reason": "no room"})
    assert cli("deployments", "scale", "small", "3", "--wait") == 1
    assert cloud.sent("PATCH", "/api/v1/deployments/dep_1") == {"replicas": {"min": 3, "max": 3}}
    assert "small cannot run: no room" in capsys.readouterr().err


def test_a_ledger_that_differs_is_a_failure(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"ok": True, "events_replayed": 2, "differences_total": 0, "differences": [], "charged": []}
    difference = {"kind": "amount", "subject": "req_1", "field": "amount", "expected": "1", "found": "2"}
    cloud.answer("POST", "/api/v1/ledger/verify", good)
    cloud.answer("POST", "/api/v1/ledger/verify", {**good, "ok": False, "differences": [difference]})
    assert [cli("ledger", "verify"), cli("ledger", "verify")] == [0, 1]
    assert "req_1" in capsys.readouterr().out
