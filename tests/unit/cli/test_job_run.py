"""`jobs run`: what of its words is the job's command, and what the cloud is asked for."""

import pytest

from tests.unit.cli.conftest import Cli, FakeCloud


def test_an_option_that_there_is_not_is_no_part_of_a_jobs_command(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("jobs", "run", "--cpus", "4", "--", "true") == 2
    assert "--cpus" in capsys.readouterr().err
    assert cli("jobs", "shell", "job_1", "--bogus") == 2
    assert not cloud.requests


def test_a_job_may_ask_for_labels_and_tolerate_taints(cli: Cli, cloud: FakeCloud) -> None:
    cloud.answer("GET", "/api/v1/projects", {"data": [{"id": "proj_1", "name": "default"}], "next_cursor": None})
    cloud.answer("POST", "/api/v1/jobs", {"title": "No room", "detail": "no"}, 409)
    run = ("jobs", "run", "--url", "http://cloud.test")
    options = ("--node-label", "disk=fast", "--node-label", "team=red", "--tolerate", "batch-only")
    assert cli(*run, *options, "--", "true", url=None) == 1
    sent = cloud.sent("POST", "/api/v1/jobs")
    assert (sent["labels"], sent["tolerations"]) == ({"disk": "fast", "team": "red"}, ["batch-only"])
    assert cli(*run, "--node-label", "fast", "--", "true", url=None) == 2
