"""Volumes over HTTP: a project's own, by name, with what jobs left in them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from cloudcrest.compute.volumes.folders import VolumeFolders, data_folder
from cloudcrest.content.http import make_app
from cloudcrest.content.routes import volumes as volume_routes

pytestmark = pytest.mark.anyio
TOKEN = "internal"


def caller(project: str) -> dict[str, str]:
    return {
        "authorization": f"Bearer {TOKEN}",
        "x-cloudcrest-organization": "org_1",
        "x-cloudcrest-project": project,
        "x-cloudcrest-key": "key_1",
    }


@asynccontextmanager
async def client_of(folder: Path, project: str = "proj_1") -> AsyncIterator[httpx2.AsyncClient]:
    volumes = VolumeFolders(folder, most=3, most_bytes=100_000, now=lambda: 7.0)
    transport = httpx2.ASGITransport(make_app(TOKEN, volume_routes.routes(volumes)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://content", headers=caller(project)) as client:
        yield client


async def test_a_volume_is_made_filled_listed_and_deleted(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        made = await client.post("/v1/volumes", json={"name": "data", "quota_bytes": 50_000})
        assert (made.status_code, made.json()["quota_bytes"]) == (201, 50_000)
        assert (await client.post("/v1/volumes", json={"name": "data"})).status_code == 409
        put = await client.put("/v1/volumes/data/objects/a/größe.txt", content=b"hello")
        assert put.json() == {"name": "a/größe.txt", "object": "volume.object", "size_bytes": 5}
        (data_folder(tmp_path, "proj_1", "data") / "made-by-a-job").write_text("x")
        listed = (await client.get("/v1/volumes/data/objects", params={"limit": 1})).json()
        assert ([each["name"] for each in listed["data"]], listed["has_more"]) == (["a/größe.txt"], True)
        after = (await client.get("/v1/volumes/data/objects", params={"after": "a/größe.txt"})).json()
        assert [each["name"] for each in after["data"]] == ["made-by-a-job"]
        got = await client.get("/v1/volumes/data/objects/a/größe.txt")
        assert (got.content, got.headers["x-content-type-options"]) == (b"hello", "nosniff")
        assert (await client.get("/v1/volumes/data")).json()["used_bytes"] > 0
        assert [each["name"] for each in (await client.get("/v1/volumes")).json()["data"]] == ["data"]
        assert (await client.put("/v1/volumes/data/objects/big", content=b"x" * 60_000)).status_code == 413
        assert (await client.delete("/v1/volumes/data/objects/a/größe.txt")).status_code == 200
        assert (await client.delete("/v1/volumes/data/objects/a/größe.txt")).status_code == 404
        assert (await client.delete("/v1/volumes/data")).json()["deleted"]
        assert (await client.get("/v1/volumes/data")).status_code == 404


async def test_another_projects_volume_is_not_there(tmp_path: Path) -> None:
    async with client_of(tmp_path) as owner:
        await owner.post("/v1/volumes", json={"name": "data"})
        await owner.put("/v1/volumes/data/objects/secret", content=b"mine")
    async with client_of(tmp_path, "proj_2") as other:
        for name in ("data", "..%2fproj_1%2fdata", "%2e%2e"):
            for method, path in (
                ("GET", f"/v1/volumes/{name}"),
                ("DELETE", f"/v1/volumes/{name}"),
                ("GET", f"/v1/volumes/{name}/objects"),
                ("GET", f"/v1/volumes/{name}/objects/secret"),
                ("PUT", f"/v1/volumes/{name}/objects/secret"),
                ("DELETE", f"/v1/volumes/{name}/objects/secret"),
            ):
                answer = await other.request(method, path, content=b"x" if method == "PUT" else None)
                assert answer.status_code in (400, 404), (method, path)
        assert (await other.get("/v1/volumes")).json()["data"] == []
        # The same name is free to others.
        assert (await other.post("/v1/volumes", json={"name": "data"})).status_code == 201
    async with client_of(tmp_path) as owner:
        assert (await owner.get("/v1/volumes/data/objects/secret")).content == b"mine"


async def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    async with client_of(tmp_path) as client:
        await client.post("/v1/volumes", json={"name": "data"})
        (data_folder(tmp_path, "proj_1", "data") / "up").symlink_to(tmp_path)
        for name in ("up/secret", "%2e%2e/volume.json", "a/%2e%2e/%2e%2e/volume.json", "%2fetc%2fpasswd", "a%00b"):
            for method in ("GET", "PUT", "DELETE"):
                answer = await client.request(method, f"/v1/volumes/data/objects/{name}", content=b"x")
                assert answer.status_code in (400, 404), (method, name)
        for body in ({"name": "../x"}, {"name": "X"}, {"name": ""}, {}, {"name": "x", "quota": 1}, {"name": "x" * 64}):
            assert (await client.post("/v1/volumes", json=body)).status_code == 400, body
    assert (tmp_path / "secret").read_text() == "of the host"


async def test_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        for path in ("/v1/volumes", "/v1/volumes/data", "/v1/volumes/data/objects"):
            assert (await client.get(path, headers={"authorization": "Bearer guess"})).status_code == 401
