"""Jobs of several members over nodes with addresses of their own: they connect, by what their region has told them."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from cloudcrest.compute.fakes import FakePlacer
from cloudcrest.compute.jobs.entry import MemberEntry
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.running import Go, RunnerState
from cloudcrest.kernel.units import GIB
from tests.support.gangs import needs_network, program
from tests.support.job_region import FOREVER, SECRET, Region, job, running_region
from tests.support.nodes import many_nodes, node
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
STAND = """#!/bin/sh
case $1 in
start) echo $$ > "$0.$3"; exec sleep 600 ;;
kill) kill -9 "$(cat "$0.$4")" ;;
esac
"""


@asynccontextmanager
async def region_of_two(folder: Path) -> AsyncIterator[Region]:
    async with many_nodes(node("n1"), node("n2")) as fabric:
        placer = FakePlacer(("n1", "n2"))
        placer.addresses = {each.id: each.address for each in await fabric.nodes()}
        async with running_region(folder, placer, fabric=fabric, isolation="auto") as region:
            yield region


@needs_network
async def test_members_on_two_nodes_connect_by_what_they_are_told(tmp_path: Path) -> None:
    code = """
assert os.environ["CLOUDCREST_ADDRESS"] == peers[member]
assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "gang0"
if member == 0:
    connection, there = listen(29500).accept()
    say(peers, "from", there[0])
    connection.sendall(b"rendezvous")
else:
    say(connect(0, 29500).recv(100))
"""
    async with region_of_two(tmp_path) as region:
        region.want(
            job(program(code), members=2, memory_bytes=GIB),
            job(program(code), "job_2", members=2, memory_bytes=GIB, project_id="proj_2"),
        )
        for job_id in ("job_1", "job_2"):
            report = await region.state("succeeded", "failed", job_id=job_id)
            assert report.state == "succeeded", report
            assert {member.node_id for member in report.attempts[0].members} == {"n1", "n2"}
        assert await region.log() == "listens\n['10.77.0.1', '10.77.0.2'] from 10.77.0.2\n"
        assert await region.log(member=1) == "b'rendezvous'\n"


@needs_network
async def test_a_member_whose_runner_is_lost_ends_the_attempt_and_the_next_one_connects(tmp_path: Path) -> None:
    code = """
if member == 0:
    connection, _ = listen(29500).accept()
    say("connected")
    connection.sendall(b"x")
    connection.recv(1) if os.environ["CLOUDCREST_ATTEMPT"] == "1" else None
else:
    connection = connect(0, 29500)
    connection.recv(1)
    time.sleep(600) if os.environ["CLOUDCREST_ATTEMPT"] == "1" else None
"""
    async with region_of_two(tmp_path) as region:
        region.want(job(program(code), members=2, memory_bytes=GIB))
        await region.state("running")
        work = tmp_path / "work"

        def connected() -> bool:
            return any("connected" in log.read_text() for log in work.glob("job_1-1-0/log/*"))

        await until_async(connected, "they are connected")
        pid = next(each.pid for each in await region.fabric.list() if each.labels["member"] == "1")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        report = await region.state("succeeded", "failed")
        assert (report.state, report.attempt, report.losses) == ("succeeded", 2, 1)


class _Killing(RunnerLink):
    """Kills the runner of the first member of the first attempt instead of telling it to start."""

    async def go(self, member: MemberEntry, order: Go) -> RunnerState:
        if member.process_id == "job_1-1-0" and member.starts == 1:
            pid = next(each.pid for each in psutil.process_iter(["cmdline"]) if _is_runner(each, member.port))
            os.kill(pid, signal.SIGKILL)
        return await super().go(member, order)


def _is_runner(process: psutil.Process, port: int) -> bool:
    return "cloudcrest.compute.jobs.runner" in (words := process.info["cmdline"] or []) and str(port) in words


@needs_network
async def test_a_runner_that_begins_anew_when_others_have_gone_ends_the_attempt(tmp_path: Path) -> None:
    code = """
if member == 0: listen(29500).accept()
else: connect(0, 29500)
"""
    async with region_of_two(tmp_path) as region:
        await region.stop()
        region.link = _Killing(region.client, SECRET)
        region.start()
        region.want(job(program(code), members=2, memory_bytes=GIB))
        report = await region.state("succeeded", "failed")
        assert (report.state, report.attempt, report.losses) == ("succeeded", 2, 1)


async def test_members_that_cannot_connect_run_all_the_same_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = tmp_path / "bin" / "docker"
    stand.parent.mkdir()
    (stand.parent / "podman").write_text("#!/bin/sh\nexit 1\n")
    (stand.parent / "podman").chmod(0o755)
    stand.write_text(STAND)
    stand.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand.parent}:{os.environ['PATH']}")
    async with running_region(tmp_path, isolation="auto") as region:
        region.want(job(("train",), members=2, image="alpine"), job(FOREVER, "job_2", image="alpine"))
        why = "its members cannot connect to each other: member 0: commands in container images have a "
        why += "network by Podman alone, and this is docker"

        def runs_and_says() -> bool:
            report = region.reports.get("job_1")
            members = () if report is None or report.reason != why else report.attempts[0].members
            return [member.isolation for member in members] == ["docker", "docker"]

        await until_async(runs_and_says, "its members run, and it says why they are alone")
        assert (await region.state("running", job_id="job_2")).reason == ""
