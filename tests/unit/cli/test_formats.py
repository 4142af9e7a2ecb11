"""What programs get to read: JSON and CSV that their readers take, on every command."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from cloudcrest.cli.main import build
from tests.unit.cli.conftest import Cli, FakeCloud
from tests.unit.cli.test_commands import KEY, PROJECTS


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_a_new_key_is_a_row_of_csv(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/api/v1/projects", PROJECTS)
    cloud.answer("POST", "/api/v1/keys", {**KEY, "key": "sk-cc-secret"}, 201)
    assert cli("keys", "create", "search", "--format", "csv") == 0
    heading, row = _rows(capsys.readouterr().out)
    assert dict(zip(heading, row, strict=True))["key"] == "sk-cc-secret"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+cmd", "'+1+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-12.5", "-12.5"),
        ("-0.000001 USD", "-0.000001 USD"),
        ("plain = text", "plain = text"),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay_numbers(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str], name: str, cell: str
) -> None:
    cloud.answer("GET", "/api/v1/keys", {"data": [{**KEY, "name": name}], "next_cursor": None})
    assert cli("keys", "list", "--format", "csv") == 0
    heading, row = _rows(capsys.readouterr().out)
    assert dict(zip(heading, row, strict=True))["name"] == cell


def test_the_version_is_json_too(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("version", "--format", "json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"version"}


def test_the_status_is_one_row_of_csv(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = {"name": "m", "state": "ready", "reason": None}
    cloud.answer("GET", "/api/v1/deployments", {"data": [deployment], "next_cursor": None})
    assert cli("status", "--format", "csv") == 0
    heading, row = _rows(capsys.readouterr().out)
    assert len(heading) == len(row)


@pytest.mark.parametrize(
    ("line", "fields"),
    [('{"event": "began", "port": 1}', {"event": "began", "port": 1}), ("LOG:  ready", {"event": "LOG:  ready"})],
)
def test_logs_are_json_lines_that_name_their_process(
    cli: Cli, home: Path, capsys: pytest.CaptureFixture[str], line: str, fields: dict[str, object]
) -> None:
    folder = home / "share" / "cloudcrest" / "logs"
    folder.mkdir(parents=True)
    (folder / "control.log").write_text(line + "\n")
    assert cli("logs", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"process": "control", **fields}
    assert cli("logs", "--format", "csv") == 0
    assert _rows(capsys.readouterr().out) == [["control", line]]


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_that_shows_nothing_is_wrong(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    assert cli("usage", "--limit", limit) == 2
    assert "--limit" in capsys.readouterr().err
    assert cloud.requests == []


def _commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in app:
        if not name.startswith("-"):
            command = app[name]
            if command.default_command is not None:
                yield (*path, name), command
            yield from _commands(command, (*path, name))


def test_every_command_but_those_that_stay_takes_the_format() -> None:
    staying = (("up",), ("node", "join"))
    found = {path: command for path, command in _commands(build()) if path not in staying}
    assert len(found) > 40
    for path, command in found.items():
        flags = {name for argument in command.assemble_argument_collection() for name in argument.names}
        assert "--format" in flags, path


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (("keys", "revoke", "key_1"), {"revoked": "key_1"}),
        (("budgets", "delete", "bud_1"), {"deleted": "bud_1"}),
        (("deployments", "delete", "dep_1"), {"deleted": "dep_1"}),
        (("projects", "archive", "proj_1"), {"archived": "proj_1"}),
        (("logout",), {"forgotten": None}),
        (("down",), {"stopped": None}),
    ],
)
def test_what_leaves_nothing_to_show_says_what_was_done(
    cli: Cli,
    cloud: FakeCloud,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    done: dict[str, object],
) -> None:
    cloud.answer("DELETE", f"/api/v1/{command[0]}/{command[-1]}", {}, 204)
    assert cli(*command, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == done
    assert cli(*command) == 0
    assert capsys.readouterr().out == ""
