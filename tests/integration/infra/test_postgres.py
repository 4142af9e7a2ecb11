"""The embedded PostgreSQL: killed, restarted on the same folder, leftovers ended."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.kernel.errors import SetupError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short path: sockets have short names."""
    path = Path(tempfile.mkdtemp(prefix="ccpg"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "data", folder / "s")
    yield server
    if (folder / "data" / "PG_VERSION").read_text().strip() == "18":
        server.prepare()  # ends whatever a test left running


def start(server: EmbeddedPostgres) -> subprocess.Popen[bytes]:
    server.prepare()
    process = subprocess.Popen(server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    asyncio.run(server.wait_ready(30))
    return process


def test_what_was_committed_survives_kill_9(server: EmbeddedPostgres) -> None:
    process = start(server)
    asyncio.run(server.ensure_database("kept"))
    with psycopg.connect(server.conninfo("kept")) as link:
        link.execute("create table t (n int)")
        link.execute("insert into t values (7)")
    process.kill()
    process.wait()
    process = start(server)
    with psycopg.connect(server.conninfo("kept")) as link:
        assert link.execute("select n from t").fetchall() == [(7,)]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_server_that_still_runs_is_ended_and_replaced(server: EmbeddedPostgres) -> None:
    old = start(server)
    new = start(server)
    assert old.wait(30) is not None
    assert new.poll() is None


def test_a_pid_file_that_names_somebody_else_does_not_hinder_the_start(server: EmbeddedPostgres, folder: Path) -> None:
    process = start(server)
    process.kill()
    process.wait()
    pid_file = folder / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert start(server).poll() is None


def test_a_half_made_data_folder_is_made_again(server: EmbeddedPostgres, folder: Path) -> None:
    (folder / "data.new").mkdir()
    (folder / "data.new" / "base").mkdir()
    assert start(server).poll() is None


def test_nothing_listens_on_tcp_and_the_folder_is_private(server: EmbeddedPostgres, folder: Path) -> None:
    start(server)
    with psycopg.connect(server.conninfo("postgres")) as link:
        assert link.execute("show listen_addresses").fetchone() == ("",)
        assert link.execute("show fsync").fetchone() == ("on",)
    assert (folder / "data").stat().st_mode & 0o077 == 0
    assert (folder / "s").stat().st_mode & 0o077 == 0


def test_data_of_another_version_is_refused(server: EmbeddedPostgres, folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(SetupError, match="holds PostgreSQL 15 data"):
        server.prepare()


def test_a_folder_that_lost_its_version_is_not_overwritten(server: EmbeddedPostgres, folder: Path) -> None:
    (folder / "data" / "base").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"its PG_VERSION is missing.*restore it"):
        server.prepare()
    assert (folder / "data" / "base").is_dir()
    (folder / "data" / "PG_VERSION").write_text("15\n")


def test_a_socket_path_that_is_too_long_is_refused(folder: Path) -> None:
    with pytest.raises(SetupError, match="too long"):
        EmbeddedPostgres(folder / "data", folder / ("s" * 100))


def test_not_answering_is_said(server: EmbeddedPostgres) -> None:
    server.prepare()
    with pytest.raises(SetupError, match="did not answer"):
        asyncio.run(server.wait_ready(0))
