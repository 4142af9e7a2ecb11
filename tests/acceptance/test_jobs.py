"""Jobs in a running cloud: followed live, cancelled, timed out, tried again, adopted after kill -9; what they leave."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.tenants import Tenant, answered, known, sign_up
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until

FOREVER = (sys.executable, "-c", "import time; print('begins', flush=True); time.sleep(600)")


@pytest.fixture(scope="module")
def jobs_cloud() -> Iterator[Cloud]:
    """A cloud whose processes these tests kill."""
    environment = {"CLOUDCREST_JOBS_ISOLATION": "plain", "CLOUDCREST_JOBS_BACKOFF_FIRST_SECONDS": "0.1"}
    with new_cloud(flags=["--no-default-models"], environment=environment) as started:
        started.start()
        yield started


@pytest.fixture
def tenant(jobs_cloud: Cloud) -> Iterator[Tenant]:
    made = sign_up(jobs_cloud.base_url)
    yield made
    made.http.close()


class Jobs:
    """A tenant's jobs, over the public API and the command line."""

    def __init__(self, cloud: Cloud, tenant: Tenant) -> None:
        self.cloud = cloud
        self.tenant = tenant
        self.key = tenant.management_key()
        known(cloud.base_url, self.key)
        self.http = cloud.client(self.key)

    def run(self, command: tuple[str, ...], **more: Any) -> str:
        """Makes a job; its id."""
        body = {
            "project_id": self.tenant.project_id,
            "command": list(command),
            "cpu_milli": 100,
            "memory_bytes": 100_000_000,
            "grace_seconds": 5.0,
            **more,
        }
        return str(answered(self.tenant.http.post("/api/v1/jobs", json=body), 201)["id"])

    def ended(self, job: str, state: str) -> dict[str, Any]:
        """Waits until the control plane has heard of its end."""

        def look() -> dict[str, Any] | None:
            found = answered(self.tenant.http.get(f"/api/v1/jobs/{job}"))
            return found if found["ended_at"] is not None else None

        found = until(look, f"the end of {job}")
        assert found is not None
        assert found["state"] == state
        return found

    def log(self, job: str) -> str:
        answer = self.http.get(f"/v1/jobs/{job}/logs")
        return answer.text if answer.status_code == 200 else ""

    def cli(self, *tokens: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = [str(Path(sys.executable).parent / "cloudcrest"), *tokens, "--url", self.cloud.base_url]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST_")}
        environment = {**clean, "CLOUDCREST_API_KEY": self.key, "NO_COLOR": "1"}
        return subprocess.run(
            argv, env=environment, input=stdin, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def jobs(jobs_cloud: Cloud, tenant: Tenant) -> Iterator[Jobs]:
    made = Jobs(jobs_cloud, tenant)
    yield made
    made.http.close()


def test_a_job_is_followed_to_its_end_and_its_outputs_are_fetched(jobs: Jobs, tmp_path: Path) -> None:
    assert jobs.cli("volumes", "create", "data").returncode == 0
    (tmp_path / "in.txt").write_text("from the volume")
    assert jobs.cli("volumes", "put", "data", str(tmp_path / "in.txt"), "--as", "a/in.txt").returncode == 0
    code = (
        "import os, pathlib; folder = pathlib.Path(os.environ['CLOUDCREST_VOLUME_DATA'])\n"
        "print((folder / 'a/in.txt').read_text(), os.environ['WORD']); (folder / 'out.txt').write_text('back')\n"
        "pathlib.Path('outputs/result.txt').write_text('42')"
    )
    word = {"value": "kept sealed"}
    secrets = f"/api/v1/projects/{jobs.tenant.project_id}/secrets"
    assert jobs.tenant.http.put(f"{secrets}/WORD", json=word).status_code in (200, 201)
    volumes = [{"name": "data", "target": "/data"}]
    job = jobs.run((sys.executable, "-c", code), volumes=volumes, secrets=["WORD"])
    until(lambda: jobs.http.get(f"/v1/jobs/{job}/logs").status_code == 200, "the region knows it")
    followed = jobs.cli("jobs", "logs", job, "--follow")
    assert (followed.returncode, followed.stdout) == (0, "from the volume kept sealed\n")
    assert "succeeded" in followed.stderr
    assert "outputs/result.txt" in jobs.cli("jobs", "outputs", job).stdout
    assert jobs.cli("jobs", "outputs", job, "--into", str(tmp_path / "got")).returncode == 0
    assert (tmp_path / "got/outputs/result.txt").read_text() == "42"
    assert jobs.cli("volumes", "get", "data", "out.txt", "--into", str(tmp_path)).returncode == 0
    assert (tmp_path / "out.txt").read_text() == "back"
    assert jobs.cli("jobs", "logs", job).stdout == "from the volume kept sealed\n"
    # Its seconds are in the tenant's usage, at the price of a processor's second.
    usage = until(jobs.tenant.usage, "its seconds are charged")
    assert [(each["model"], each["endpoint"]) for each in usage] == [("compute/cpu", "/v1/jobs")]


def test_a_job_for_which_no_disk_is_large_enough_says_so_and_goes_nowhere(jobs: Jobs) -> None:
    job = jobs.run(("true",), disk_bytes=2**49)

    def waits() -> str:
        return str(answered(jobs.tenant.http.get(f"/api/v1/jobs/{job}"))["reason"])

    until(lambda: "needs 562.9 TB of disk on one node; the largest has" in waits(), "it says why it waits")
    assert answered(jobs.tenant.http.get(f"/api/v1/jobs/{job}"))["attempts"] == []
    answered(jobs.tenant.http.post(f"/api/v1/jobs/{job}/cancel", json={}))


def test_a_terminal_in_a_job_and_a_cancelled_jobs_end(jobs: Jobs) -> None:
    job = jobs.run(FOREVER, environment={"OF": "the job"})
    until(lambda: "begins" in jobs.log(job), "it runs")
    ran = jobs.cli("jobs", "shell", job, stdin="echo is $OF; exit 7\n")
    assert ran.returncode == 7
    assert "is the job" in ran.stdout
    shown = jobs.cli("jobs", "metrics", job, "--format", "csv").stdout.splitlines()
    assert shown[0] == "member,cores,cpu seconds,memory,at most,disk,sent,received,accelerators,processes"
    assert len(jobs.cli("jobs", "metrics", job, "--history", "--format", "csv").stdout.splitlines()) >= 2
    answered(jobs.tenant.http.post(f"/api/v1/jobs/{job}/cancel", json={}))
    followed = jobs.cli("jobs", "logs", job, "-f")
    assert (followed.returncode, followed.stdout) == (1, "begins\n")
    assert "cancelled" in followed.stderr
    (attempt,) = jobs.ended(job, "cancelled")["attempts"]
    assert attempt["members"][0]["ended_at"] is not None


def test_a_failure_is_tried_again_and_time_is_limited(jobs: Jobs) -> None:
    code = "import os, sys; print(os.environ['CLOUDCREST_ATTEMPT']); sys.exit(os.environ['CLOUDCREST_ATTEMPT'] == '1')"
    again = jobs.run((sys.executable, "-c", code), retries=1)
    limited = jobs.run(FOREVER, time_limit_seconds=0.5)
    until(lambda: "2" in jobs.log(again), "it is tried again")
    assert "succeeded" in jobs.cli("jobs", "logs", again, "-f").stderr
    assert "time limit" in jobs.cli("jobs", "logs", limited, "-f").stderr
    assert [each["members"][0]["exit_code"] for each in jobs.ended(again, "succeeded")["attempts"]] == [1, 0]
    jobs.ended(limited, "timed_out")


def test_a_job_outlives_kill_9_of_the_region_service_and_the_control_plane(jobs: Jobs, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    code = (
        f"import os, pathlib, time; there = pathlib.Path({str(go_on)!r}); print(os.getpid(), flush=True)\n"
        "while not there.exists(): time.sleep(0.02)\n"
        "print('goes on')"
    )
    job = jobs.run((sys.executable, "-c", code))
    pid = int(until(lambda: jobs.log(job).strip(), "it runs"))
    following = subprocess.Popen(
        [str(Path(sys.executable).parent / "cloudcrest"), "jobs", "logs", job, "-f", "--url", jobs.cloud.base_url],
        env={**os.environ, "CLOUDCREST_API_KEY": jobs.key, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert following.stdout.readline() == f"{pid}\n"
    os.kill(jobs.cloud.pid_of("control"), signal.SIGKILL)
    region = jobs.cloud.pid_of("region")
    os.kill(region, signal.SIGKILL)
    until(lambda: jobs.cloud.pid_of("region") != region, "a new region service")
    os.kill(pid, 0)  # it runs on
    go_on.touch()
    assert following.communicate(timeout=60)[0] == "goes on\n"
    assert following.returncode == 0
    assert jobs.log(job) == f"{pid}\ngoes on\n"
    assert jobs.ended(job, "succeeded")["attempt"] == 1


def test_a_job_is_tried_again_when_the_cloud_is_back(jobs: Jobs) -> None:
    code = (
        "import os, time; attempt = os.environ['CLOUDCREST_ATTEMPT']; print(attempt, flush=True)\n"
        "time.sleep(600 if attempt == '1' else 0)"
    )
    job = jobs.run((sys.executable, "-c", code))
    until(lambda: jobs.log(job) == "1\n", "it runs")
    jobs.cloud.kill()
    jobs.cloud.start()
    followed = jobs.cli("jobs", "logs", job, "-f")
    assert followed.stdout in ("1\n2\n", "2\n")
    assert "succeeded" in followed.stderr


def test_another_project_sees_nothing(jobs: Jobs, jobs_cloud: Cloud) -> None:
    job = jobs.run(FOREVER)
    until(lambda: "begins" in jobs.log(job), "it runs")
    assert jobs.http.post("/v1/volumes", json={"name": "private"}).status_code == 201
    for path in ("logs", "metrics", "outputs"):
        assert jobs.http.get(f"/v1/jobs/{job}/{path}").status_code == 200
    other = sign_up(jobs_cloud.base_url)
    others = other.management_key()
    known(jobs_cloud.base_url, others)
    with httpx2.Client(base_url=jobs_cloud.base_url, trust_env=False) as http, closing(other.http):
        for path in ("logs", "logs?follow=true", "metrics", "outputs", "outputs/x", "shells/0.x"):
            for key, status in ((others, 404), (jobs.tenant.key["key"], 403), ("sk-cc-unknown", 401)):
                answer = http.get(f"/v1/jobs/{job}/{path}", headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status, path
                assert "error" in answer.json()
        headers = {"authorization": f"Bearer {others}"}
        assert http.post(f"/v1/jobs/{job}/shells", json={}, headers=headers).status_code == 404
        assert http.get("/v1/volumes/private", headers=headers).status_code == 404
        assert http.get("/v1/volumes", headers=headers).json()["data"] == []
        assert other.http.get(f"/api/v1/jobs/{job}").status_code == 404
    answered(jobs.tenant.http.post(f"/api/v1/jobs/{job}/cancel", json={}))
    jobs.ended(job, "cancelled")
    until(lambda: jobs.http.get(f"/v1/jobs/{job}/metrics").status_code == 409, "it has ended")
