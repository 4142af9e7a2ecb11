"""A job as a tenant runs it: by the command line, held by what this machine has, charged by the second."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.compute.sandbox.probe import probe
from tests.acceptance.tenants import Tenant, known, sign_up
from tests.support.cloud import Cloud
from tests.support.waiting import until

RARE = "moore-threads-mtt-s4000-48gb"
"""A type that the cloud knows and no machine of ours has."""


@pytest.fixture
def tenant(cloud: Cloud) -> Tenant:
    return sign_up(cloud.base_url)


def run(cloud: Cloud, tenant: Tenant, *tokens: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).parent / "cloudcrest"), *tokens[:2], "--url", cloud.base_url, *tokens[2:]]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST_")}
    environment = {**clean, "CLOUDCREST_API_KEY": tenant.management_key(), "NO_COLOR": "1"}
    return subprocess.run(argv, env=environment, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_job_runs_isolated_is_shown_and_charged(cloud: Cloud, tenant: Tenant) -> None:
    assert run(cloud, tenant, "secrets", "set", "WORD", stdin="sesame\n").returncode == 0
    script = "id -u; echo $WORD | rev; echo kept > outputs/result; cat /etc/shadow"
    done = run(cloud, tenant, "jobs", "run", "--wait", "--secret", "WORD", "--format", "json", "--", "sh", "-c", script)
    if problem := probe():
        assert done.returncode == 1
        assert problem in done.stderr  # where nothing can hold it, nothing is run
        return
    assert done.stdout, done.stderr
    job = json.loads(done.stdout)
    assert (done.returncode, job["state"]) == (1, "failed"), done.stderr  # of its last command
    (member,) = job["attempts"][-1]["members"]
    assert member["isolation"] == "bubblewrap"
    key = tenant.management_key()
    known(cloud.base_url, key)
    with cloud.client(key) as client:
        log = client.get(f"/v1/jobs/{job['id']}/logs").text
        assert log.splitlines()[:2] == ["65534", "emases"]
        assert "/etc/shadow" in log
        assert "root:" not in log
        assert client.get(f"/v1/jobs/{job['id']}/outputs/outputs/result").text == "kept\n"
    events = until(lambda: [each for each in tenant.usage() if each["model"] == "compute/cpu"], "it is charged")
    seconds = member_seconds(member)
    assert sum(each["usage"]["cpu_milliseconds"] for each in events) == round(seconds * 1000)
    assert run(cloud, tenant, "ledger", "verify").returncode == 0


def test_what_finds_no_place_says_why_and_is_cancelled(cloud: Cloud, tenant: Tenant) -> None:
    mistyped = run(cloud, tenant, "jobs", "run", "--type", "moore-threads-mtt-s4000", "--", "true")
    assert (mistyped.returncode, f"did you mean {RARE}" in mistyped.stderr) == (1, True)
    asked = run(cloud, tenant, "jobs", "run", "--type", RARE, "--format", "json", "--", "true")
    assert asked.returncode == 0, asked.stderr
    job = json.loads(asked.stdout)

    def why() -> str:
        shown: dict[str, Any] = json.loads(run(cloud, tenant, "jobs", "show", job["id"], "--format", "json").stdout)
        return str(shown["reason"])

    until(lambda: f"no node has accelerators of {RARE}" in why(), "its region says why it waits")
    assert run(cloud, tenant, "jobs", "cancel", "--wait", job["id"]).returncode == 0
    listed = json.loads(run(cloud, tenant, "jobs", "list", "--format", "json").stdout)
    assert [each["state"] for each in listed] == ["cancelled"]
    assert run(cloud, tenant, "jobs", "delete", job["id"]).returncode == 0


def member_seconds(member: dict[str, Any]) -> float:
    from datetime import datetime

    began, ended = (datetime.fromisoformat(member[name]) for name in ("started_at", "ended_at"))
    return (ended - began).total_seconds()
