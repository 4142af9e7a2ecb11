"""A whole cloud: what it refuses, what dies with it, and what recovers."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cloud import Cloud, new_cloud
from tests.support.load import Load, verify_ledger
from tests.support.waiting import until
from tests.support.weights import CHAT_MODEL, EMBEDDING_MODEL

PROCESSES = ("gateway", "region", "content", "control", "postgres", "postmaster", "replica")


@pytest.fixture(scope="module")
def running() -> Iterator[Cloud]:
    """A cloud of this module's own: its processes are killed."""
    with new_cloud() as cloud:
        cloud.start()
        yield cloud


def victim(cloud: Cloud, name: str, *, other_than: int = 0) -> int:
    """The pid to kill for a process's name, once there is one (`other_than` the one that was killed)."""

    def look() -> int:
        if name == "replica":
            found = cloud.replica_pids("chat")
        elif name == "postmaster":
            found = cloud.children_of("postgres")
        else:
            found = [cloud.pid_of(name)]
        return next((pid for pid in found if pid != other_than), 0)

    return until(look, f"the start of {name}")


def test_it_says_where_it_is_and_what_to_try(running: Cloud) -> None:
    said = running.output
    assert f"Cloudcrest is ready at {running.base_url}" in said
    assert running.api_key in said
    assert all(command in said for command in ("curl ", "openai.OpenAI()", "cloudcrest chat"))


def test_what_it_writes_about_itself_is_its_owners_alone(running: Cloud) -> None:
    for name in ("connection.json", "secrets.json", "run/up.json", "run/settings/control.json"):
        assert (running.data / name).stat().st_mode & 0o077 == 0, name
    assert running.data.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "command",
    [
        'chat "What is a cloud?" --max-tokens 5',
        "usage",
        "ledger verify",
        "keys create my-app",
        "members invite ada@example.com --role developer",
        "budgets create 25 --period month",
        "projects update default --fallback qwen3-8b=qwen3-1.7b,smollm2-135m-instruct",
        "rate-cards create smollm2-135m-instruct --input 0.10 --output 0.40",
    ],
)
def test_what_the_readme_says_to_do_works_as_it_stands(running: Cloud, tmp_path: Path, command: str) -> None:
    environment = running.variables() | {"CLOUDCREST_DATA": str(running.data), "XDG_CONFIG_HOME": str(tmp_path)}
    argv = [str(Path(sys.executable).with_name("cloudcrest")), *shlex.split(command)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_embeddings_are_answered_too(running: Cloud) -> None:
    with running.client() as client:
        answer = client.post("/v1/embeddings", json={"model": EMBEDDING_MODEL, "input": "cloud"})
        assert len(answer.json()["data"][0]["embedding"]) == 384


def test_a_second_cloud_on_its_folder_is_refused(running: Cloud) -> None:
    done = subprocess.run(
        running.command(), env=running.variables(), capture_output=True, text=True, timeout=60, check=False
    )
    assert running.up is not None
    assert done.returncode == 1
    assert f"already runs on {running.data} (process {running.up.pid}, at {running.base_url})" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_refused_in_one_sentence(running: Cloud, tmp_path: Path) -> None:
    port = running.base_url.rpartition(":")[2]
    other = Cloud(tmp_path / "data")
    done = subprocess.run(
        [*other.command(), "--port", port],
        env=other.variables(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use by another program" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_only_the_region_and_gateways_reach_the_links(running: Cloud) -> None:
    with running.client(running.operator_key) as client:
        assert client.get("/internal/v1/feed").status_code == 404


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_comes_back_and_nothing_is_lost_or_doubled(running: Cloud, name: str) -> None:
    before = victim(running, name)
    with Load(running, CHAT_MODEL) as load:
        load.wait_for_answers(3)
        os.kill(before, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(before), f"the end of {name}")
        victim(running, name, other_than=before)
        load.wait_for_answers(3)
    load.check_usage()
    verify_ledger(running)


@pytest.mark.timeout(300)
def test_chat_goes_on_without_control_plane_database_and_region_service(running: Cloud) -> None:
    stopped = [running.pid_of(name) for name in ("control", "region")]
    stopped.append(victim(running, "postmaster"))
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with running.client() as client:  # a gateway that has just started has no grant of anybody's balance yet
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        with running.client() as client:
            for _ in range(3):
                assert client.post("/v1/chat/completions", json=body).status_code == 200
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    verify_ledger(running)


@pytest.mark.timeout(400)
def test_the_death_of_up_ends_everything_and_the_next_start_recovers(running: Cloud) -> None:
    with Load(running, CHAT_MODEL) as load:
        load.wait_for_answers(3)
        running.kill()
        load.stop()
    running.start()
    load.check_usage()
    verify_ledger(running)
    with Load(running, CHAT_MODEL) as again:
        again.wait_for_answers(2)
    again.check_usage()


@pytest.mark.timeout(300)
def test_told_to_stop_it_stops_in_order_and_starts_again(running: Cloud) -> None:
    tree = running.tree()
    assert running.stop() == 0
    assert not [process for process in tree if process.is_running()]
    assert not (running.data / "run" / "up.json").exists()
    assert (running.data / "postgres" / "postmaster.pid").exists() is False
    running.start()
    verify_ledger(running)
