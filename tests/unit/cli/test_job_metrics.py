"""What running jobs use, as the command line shows it."""

import json

import pytest

from tests.unit.cli.conftest import Cli, FakeCloud

CHIPS = [
    {"index": 2, "uuid": "GPU-a", "utilization": 0.87, "memory_used_bytes": 42_500_000_000, "power_watts": 412.6},
    {"index": 3, "uuid": "", "utilization": None, "memory_used_bytes": None, "power_watts": None},
]
MEMBER = {
    "member": 0, "seconds": 12.0, "cpu_seconds": 40.04, "cpu_cores": 3.5, "memory_bytes": 2_000_000,
    "memory_peak_bytes": 3_000_000, "processes": 4, "disk_bytes": None, "sent_bytes": 0, "received_bytes": 1500,
    "accelerators": CHIPS,
}  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDCREST_API_KEY", "sk-1")


PATH = "/v1/jobs/job_1/metrics"


def test_what_is_not_known_is_said_so(cloud: FakeCloud, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", PATH, {"job_id": "job_1", "attempt": 1, "members": [MEMBER]})
    assert cli("jobs", "metrics", "job_1", "--format", "csv") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading == "member,cores,cpu seconds,memory,at most,disk,sent,received,accelerators,processes"
    assert row == '0,3.5,40.0,2.0 MB,3.0 MB,not known,0 B,1.5 kB,"2: 87% 42.5 GB 413 W, 3: not known",4'
    assert cli("jobs", "metrics", "job_1", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["members"][0]["accelerators"] == CHIPS


def test_the_history_of_a_member_is_a_row_a_sample(
    cloud: FakeCloud, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.answer("GET", PATH, {"job_id": "job_1", "attempt": 1, "members": [{**MEMBER, "history": [MEMBER, MEMBER]}]})
    assert cli("jobs", "metrics", "job_1", "--member", "0", "--history", "--format", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert dict(cloud.requests[-1].url.params) == {"member": "0", "history": "true"}


def test_who_watches_is_done_when_the_job_is(cloud: FakeCloud, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.answer("GET", PATH, {"detail": "the job does not run: it is succeeded", "code": "job_not_running"}, 409)
    assert cli("jobs", "metrics", "job_1", "--watch") == 0
    assert "it is succeeded" in capsys.readouterr().err
    assert cli("jobs", "metrics", "job_1") == 1
