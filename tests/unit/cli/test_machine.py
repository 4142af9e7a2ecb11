"""What the command line reads from a data folder, and the doctor's checks."""

import fcntl
import os
import socket
from pathlib import Path

import pytest

from cloudcrest.cli import doctor, machine
from cloudcrest.cli.local import deployment_line
from tests.unit.cli.conftest import Cli, FakeCloud


def test_the_lock_says_whether_a_cloud_runs(tmp_path: Path) -> None:
    assert machine.running(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "up.json").write_text('{"pid": 7}')
    descriptor = os.open(tmp_path / "run" / "lock", os.O_CREAT | os.O_RDWR)
    assert machine.running(tmp_path) is None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert machine.running(tmp_path) == {"pid": 7}
    os.close(descriptor)


def test_a_data_folder_inside_a_file_is_a_finding_and_no_crash(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert machine.running(tmp_path / "file" / "data") is None
    assert cli("doctor", "--data", str(tmp_path / "file" / "data"), url=None) == 1
    assert "is no folder" in capsys.readouterr().out


def test_what_the_system_refuses_ends_in_one_line(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs" / "control.log").mkdir(parents=True)
    assert cli("logs", "--data", str(tmp_path), url=None) == 1
    assert "control.log: Is a directory" in capsys.readouterr().err


def test_a_tail_reads_the_end_and_follows_growth(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    lines, offset = machine.tail(path, 2)
    assert lines == ["line 19998", "line 19999"]
    assert machine.tail(path, 0)[0] == []
    with path.open("a") as file:
        file.write("one\ntw")
    grown = list(machine.grown(path, offset))
    assert [line for line, _ in grown] == ["one"]
    path.write_text("anew\n")
    assert [line for line, _ in machine.grown(path, grown[-1][1])] == ["anew"]
    assert list(machine.grown(tmp_path / "gone.log", 0)) == []


def test_logs_name_their_process_unless_one_is_asked_for(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "control.log").write_text("a\nb\n")
    (tmp_path / "logs" / "region.log").write_text("c\n")
    assert cli("logs", "-n", "1", "--data", str(tmp_path), url=None) == 0
    assert capsys.readouterr().out == "control | b\nregion | c\n"
    assert cli("logs", "control", "--data", str(tmp_path), url=None) == 0
    assert capsys.readouterr().out == "a\nb\n"
    assert cli("logs", "gatway", "--data", str(tmp_path), url=None) == 1
    assert "known: control, region" in capsys.readouterr().err


def test_each_check_finds_its_problem(tmp_path: Path) -> None:
    assert doctor.check_python((3, 10)).verdict == "problem"
    assert "jobs of tenants are refused" in doctor.check_sandbox(lambda: "no bubblewrap").said
    assert "cannot connect to each other: no device" in doctor.check_sandbox(lambda: "", lambda: "no device").said
    assert doctor.check_sandbox(lambda: "", lambda: "").verdict == "ok"
    assert doctor.check_disk(tmp_path, lambda _: 10).verdict == "problem"
    (tmp_path / "connection.json").touch()
    assert doctor.check_disk(tmp_path, lambda _: doctor.MIN_FREE_BYTES_AGAIN).verdict == "ok"
    (tmp_path / "VERSION").write_text('{"format": 99}')
    assert "has format 99" in doctor.check_data_folder(tmp_path).said
    (tmp_path / "file").touch()
    assert "is no folder" in doctor.check_data_folder(tmp_path / "file" / "x").said
    assert doctor.check_socket_path(tmp_path / ("x" * 100)).verdict == "warning"
    assert doctor.check_tls(tmp_path / "file", None).verdict == "problem"
    assert doctor.check_tls(tmp_path / "file", tmp_path / "file").verdict == "problem"


def test_a_port_in_use_is_found(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert doctor.check_port(port, is_ours=False).verdict == "problem"
        assert doctor.check_port(port, is_ours=True).verdict == "ok"
    assert doctor.check_port(port, is_ours=False).verdict == "ok"


@pytest.mark.parametrize("check", [doctor.check_postgres, doctor.check_llamacpp])
def test_what_is_installed_here_is_fine(check: object) -> None:
    assert callable(check)
    assert check().verdict == "ok"


def test_a_clock_that_is_off_is_found(cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", "/healthz", {}, headers={"date": "Thu, 01 Jan 1970 00:00:00 GMT"})
    assert cli("doctor") == 1
    assert "problem  clock" in capsys.readouterr().out


def test_a_deployment_says_why_it_is_not_ready() -> None:
    assert deployment_line({"name": "m", "state": "ready", "reason": None}) == "  m: ready"
    assert deployment_line({"name": "m", "state": "failed", "reason": "no room"}) == "  m: failed, no room"
