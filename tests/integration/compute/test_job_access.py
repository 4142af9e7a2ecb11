"""What tenants ask of their jobs, over HTTP, with real runners: their own and nobody else's."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from cloudcrest.compute.jobs.access import JobAccess
from cloudcrest.kernel.errors import CloudcrestError
from tests.support.job_region import FOREVER, Region, job, running_region
from tests.support.runners import python
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, CloudcrestError)
    return Response(msgspec.json.encode({"message": error.message}), status_code=error.status)


@asynccontextmanager
async def serving(region: Region) -> AsyncIterator[httpx2.AsyncClient]:
    """The region's routes for tenants, and a client of project `proj_1`."""
    access = JobAccess(
        region.controller,
        region.link,
        region.store,
        project_of=lambda request: request.headers["x-project"],
        project_most=2,
    )
    app = Starlette(routes=access.routes(), exception_handlers={CloudcrestError: _refused})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    # Its protocol named: else asyncio does not turn Nagle off, and every answer waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=url, headers={"x-project": "proj_1"}, trust_env=False) as client:
            await until_async(lambda: server.started, "it serves")
            yield client
        server.should_exit = True
        await running


async def events(
    client: httpx2.AsyncClient, path: str, headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[str, Any]]:
    """Server-sent events as they come."""
    async with client.stream("GET", path, timeout=30, headers=headers) as answer:
        assert answer.status_code == 200
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, msgspec.json.decode(line.removeprefix("data: "))


async def test_logs_are_followed_over_attempts_to_the_end(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    code = (
        f"import os, pathlib, sys, time; there = pathlib.Path({str(go_on)!r})\n"
        "print('attempt', os.environ['CLOUDCREST_ATTEMPT'], 'größe', flush=True)\n"
        "while not there.exists(): time.sleep(0.02)\n"
        "print('goes on', flush=True); sys.exit(os.environ['CLOUDCREST_ATTEMPT'] == '1')"
    )
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(python(code), retries=1))
        await region.state("running")
        seen: list[tuple[int, str]] = []
        end = None
        async for name, body in events(client, "/v1/jobs/job_1/logs?follow=true"):
            if name == "log":
                seen.append((body["attempt"], body["text"]))
                go_on.touch()  # while it runs its output was there
            else:
                end = body
        assert end == {"state": "succeeded", "reason": "it exited with code 0"}
        first = "".join(text for attempt, text in seen if attempt == 1)
        second = "".join(text for attempt, text in seen if attempt == 2)
        assert first == "attempt 1 größe\ngoes on\n"
        assert second == "attempt 2 größe\ngoes on\n"
        plain = await client.get("/v1/jobs/job_1/logs", params={"attempt": 1, "offset": 8})
        assert plain.text == "1 größe\ngoes on\n"
        assert plain.headers["x-cloudcrest-next-offset"] == str(len(first.encode()))
        # Who comes back goes on after what it has seen.
        again = {"last-event-id": f"1:{len('attempt 1 größe'.encode())}"}
        missed = [body async for _, body in events(client, "/v1/jobs/job_1/logs?follow=true", again)]
        assert "".join(body["text"] for body in missed[:-1]) == "\ngoes on\n" + second
        # What the region has forgotten is still read.
        region.documents.clear()
        region.want()
        await until_async(lambda: not region.reports, "it is forgotten")
        assert (await client.get("/v1/jobs/job_1/logs")).text == second
        last = [body async for name, body in events(client, "/v1/jobs/job_1/logs?follow=true") if name == "end"]
        assert last[0]["state"] == "succeeded"


async def test_outputs_are_listed_and_fetched(tmp_path: Path) -> None:
    code = (
        "import pathlib; pathlib.Path('outputs/a b').write_text('spaced'); pathlib.Path('outputs/x').write_bytes(b'')"
    )
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(python(code)))
        await region.state("succeeded")
        listed = (await client.get("/v1/jobs/job_1/outputs")).json()["data"]
        assert listed == [{"name": "outputs/a b", "size_bytes": 6}, {"name": "outputs/x", "size_bytes": 0}]
        assert (await client.get("/v1/jobs/job_1/outputs/outputs/a%20b")).text == "spaced"
        for name in ("outputs/none", "manifest", "%2e%2e/report", "1"):
            assert (await client.get(f"/v1/jobs/job_1/outputs/{name}")).status_code == 404


async def test_outputs_come_while_it_runs_and_its_use_is_shown(tmp_path: Path) -> None:
    code = "import pathlib, time; pathlib.Path('outputs/early').write_text('kept'); time.sleep(600)"
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(python(code)))

        async def look() -> bool:
            return (await client.get("/v1/jobs/job_1/outputs/outputs/early")).status_code == 200

        await until_async(look, "it is kept before the end")
        used = (await client.get("/v1/jobs/job_1/metrics")).json()
        assert used["members"][0]["processes"] >= 1
        assert used["members"][0]["accelerators"] == []
        assert "history" not in used["members"][0]
        past = (await client.get("/v1/jobs/job_1/metrics?member=0&history=true")).json()["members"][0]["history"]
        assert past[0]["seconds"] == 0
        assert past[0]["memory_bytes"] > 0

        async def measured() -> bool:
            shown = (await client.get("/v1/jobs/job_1/metrics?member=0")).json()["members"][0]
            return shown["disk_bytes"] is not None

        await until_async(measured, "its disk is measured")


async def test_a_terminal_in_a_running_job(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(FOREVER, environment={"OF": "the job"}))
        await region.state("running")
        opened = await client.post("/v1/jobs/job_1/shells", json={"command": ["/bin/sh"], "columns": 101, "rows": 33})
        assert opened.status_code == 201
        path = f"/v1/jobs/job_1/shells/{opened.json()['id']}"
        shown = bytearray()

        async def says(text: str) -> bool:
            answer = (await client.get(path, params={"offset": len(shown), "wait": 1})).json()
            shown.extend(base64.b64decode(answer["data"]))
            return text.encode() in shown

        await client.post(f"{path}/input", content=b"echo $OF; stty size\n")
        await until_async(lambda: says("33 101"), "the shell answers")
        assert b"the job" in shown
        assert (await client.post(f"{path}/size", json={"columns": 50, "rows": 10})).status_code == 204
        await client.post(f"{path}/input", content=b"stty size\n")
        await until_async(lambda: says("10 50"), "it has another size")
        assert (await client.delete(path)).status_code == 204
        assert (await client.get(path)).status_code == 404


async def test_another_projects_job_is_not_there(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(FOREVER), job(python("open('outputs/x', 'w')"), "job_2"))
        await region.state("running")
        await region.state("succeeded", job_id="job_2")
        shell = (await client.post("/v1/jobs/job_1/shells", json={})).json()["id"]
        routes = [
            (method, path.format(job_id))
            for job_id in ("job_1", "job_2")
            for method, path in (
                ("GET", "/v1/jobs/{}/logs"),
                ("GET", "/v1/jobs/{}/logs?follow=true"),
                ("GET", "/v1/jobs/{}/metrics"),
                ("GET", "/v1/jobs/{}/metrics?member=0&history=true"),
                ("GET", "/v1/jobs/{}/outputs"),
                ("GET", "/v1/jobs/{}/outputs/outputs/x"),
                ("POST", "/v1/jobs/{}/shells"),
                ("GET", f"/v1/jobs/{{}}/shells/{shell}"),
                ("DELETE", f"/v1/jobs/{{}}/shells/{shell}"),
                ("POST", f"/v1/jobs/{{}}/shells/{shell}/input"),
                ("POST", f"/v1/jobs/{{}}/shells/{shell}/size"),
            )
        ]
        for method, path in routes:
            for project in ("proj_2", "../proj_1", "proj_1/job_1", ""):
                answer = await client.request(method, path, headers={"x-project": project})
                assert answer.status_code in (404, 400), (method, path, project)
            assert (await client.get("/v1/jobs/job_1/logs")).status_code == 200


async def test_bad_questions_are_told_what_is_wrong(tmp_path: Path) -> None:
    questions: list[tuple[str, str, bytes | None, int]] = [
        ("GET", "/v1/jobs/none/logs", None, 404),
        ("GET", "/v1/jobs/job_1/logs?offset=-1", None, 400),
        ("GET", "/v1/jobs/job_1/logs?member=x", None, 400),
        ("POST", "/v1/jobs/job_1/shells", b"no json", 400),
        ("POST", "/v1/jobs/job_1/shells", b'{"member": 5}', 404),
        ("POST", "/v1/jobs/job_1/shells", b"x" * 70_000, 413),
        ("GET", "/v1/jobs/job_1/shells/0.none", None, 404),
        ("GET", "/v1/jobs/job_1/shells/7.none", None, 404),
        ("GET", f"/v1/jobs/job_1/shells/{'7' * 5000}.none", None, 404),
        ("GET", "/v1/jobs/job_1/shells/..%2f..", None, 404),
        ("GET", "/v1/jobs/job_1/metrics", None, 200),
        ("GET", "/v1/jobs/job_1/metrics?member=1", None, 404),
        ("GET", "/v1/jobs/job_1/metrics?member=x", None, 400),
    ]
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(FOREVER))
        await region.state("running")
        for method, path, body, status in questions:
            answer = await client.request(method, path, content=body)
            assert answer.status_code == status, (method, path, answer.text)


async def test_who_asks_what_an_ended_job_uses_is_told_that_it_has_ended(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(python("pass")))
        await region.state("succeeded")
        region.controller.update([])  # the control plane has its end
        await until_async(lambda: region.controller.find("proj_1", "job_1") is None, "the region forgets it")
        for method, path in (("GET", "metrics"), ("POST", "shells")):
            answer = await client.request(method, f"/v1/jobs/job_1/{path}", content=b"{}")
            assert answer.status_code == 409, answer.text
            assert "succeeded" in answer.text


async def test_followers_are_counted(tmp_path: Path) -> None:
    async with running_region(tmp_path) as region, serving(region) as client:
        region.want(job(FOREVER))
        await region.state("running")
        path = "/v1/jobs/job_1/logs?follow=true"
        async with client.stream("GET", path), client.stream("GET", path):
            assert (await client.get(path)).status_code == 429
            other = await client.get("/v1/jobs/job_1/logs")
            assert other.status_code == 200
