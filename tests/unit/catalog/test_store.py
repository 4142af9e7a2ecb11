"""The store: single flight, disks that are full, files that rot, hubs whose hashes are pinned."""

import asyncio
import errno
import hashlib
import json
import os
import pickle
import sys
from asyncio.subprocess import PIPE
from functools import partial
from pathlib import Path

import fsspec
import pytest

from cloudcrest.catalog.api import Artifact, ArtifactFile, ModelDocument, PullProgress
from cloudcrest.catalog.artifact_key import artifact_key
from cloudcrest.catalog.safety import UnsafeFile
from cloudcrest.catalog.sources.base import DiskFull, SourceCreator
from cloudcrest.catalog.sources.files import disk_errors
from cloudcrest.catalog.sources.s3 import ObjectStoreFiles
from cloudcrest.catalog.store import ArtifactStore
from cloudcrest.kernel.errors import NotFound, SetupError, Unavailable
from cloudcrest.kernel.registry import Registry
from tests.support.waiting import until_async
from tests.unit.catalog.hub import Hub
from tests.unit.catalog.samples import GGUF, OFFLINE, listed, model, sha256, store

pytestmark = pytest.mark.anyio

FILE = "/some/repo/resolve/main/model.gguf"
SOURCE = "hf:some/repo@main"


async def test_two_fetches_of_one_artifact_download_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    seen: list[PullProgress] = []
    first, second = store(tmp_path, hub_url=hub.url), store(tmp_path, hub_url=hub.url)
    paths = await asyncio.gather(first.fetch(model(SOURCE), "gguf"), second.fetch(model(SOURCE), "gguf", seen.append))
    assert paths[0] == paths[1]
    assert len(hub.requests) == 1
    assert seen[-1].phase == "ready"


async def test_another_process_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    lock = tmp_path / ".locks" / f"{artifact_key(model(SOURCE).artifacts[0])}.lock"
    lock.parent.mkdir()
    hold = f"import fcntl,sys; f=open({str(lock)!r},'w'); fcntl.flock(f,2); print('held',flush=True); sys.stdin.read()"
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", hold, stdin=PIPE, stdout=PIPE)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    seen: list[PullProgress] = []
    fetch = asyncio.create_task(store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf", seen.append))
    await until_async(lambda: len(seen) > 0 or fetch.done(), "the fetch says that it waits")
    assert ([progress.phase for progress in seen], hub.requests) == (["waiting"], [])
    holder.kill()
    await holder.wait()
    assert (await fetch).read_bytes() == GGUF


async def test_a_disk_without_room_is_said_before_anything_is_asked(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    with pytest.raises(DiskFull, match=r"1\.0 kB free and 512\.0 kB are to be fetched"):
        await store(tmp_path, hub_url=hub.url, free_bytes=1000).fetch(model(SOURCE), "gguf")
    assert hub.requests == []


def test_a_disk_that_fills_up_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="is full"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SetupError, match="may not be read or written"), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/models")
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")


async def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    seen: list[PullProgress] = []
    with pytest.raises(SetupError, match="is no folder"):
        await store(tmp_path / "store").fetch(model(SOURCE), "gguf", seen.append)
    assert seen[-1].phase == "failed"


async def test_a_file_that_rots_is_found_removed_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    ours = store(tmp_path, hub_url=hub.url)
    path = await ours.fetch(model(SOURCE), "gguf")
    await ours.verify(model(SOURCE), "gguf")
    before = path.stat()
    path.write_bytes(GGUF[:-1] + b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Unavailable, match=r"model\.gguf of 'sample' had become corrupt and is removed"):
        await ours.verify(model(SOURCE), "gguf")
    assert not path.exists()
    assert ours.ready_path(model(SOURCE), "gguf") is None
    assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF


async def test_a_touched_file_is_hashed_before_it_is_used(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    ours = store(tmp_path, hub_url=hub.url)
    path = await ours.fetch(model(SOURCE), "gguf")
    os.utime(path, ns=(1, 1))
    await ours.fetch(model(SOURCE), "gguf")
    assert len(hub.requests) == 1
    path.write_bytes(GGUF[:-1] + b"?")
    assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF
    assert len(hub.requests) == 2


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not on this machine"):
        await store(tmp_path).verify(model(SOURCE), "gguf")
    with pytest.raises(NotFound, match="no onnx weights") as caught:
        await store(tmp_path).fetch(model(SOURCE), "onnx")
    assert caught.value.hint == "it has gguf"


def test_the_key_is_of_the_content_and_not_of_its_source() -> None:
    one, other = model("hf:a/b").artifacts[0], model("file:/c", "hf:d/e").artifacts[0]
    assert artifact_key(one) == artifact_key(other)
    assert artifact_key(one) != artifact_key(model("hf:a/b", files=(listed(b"GGUF"),)).artifacts[0])


async def test_a_hubs_hashes_are_resolved_and_pinned(hub: Hub, tmp_path: Path) -> None:
    small = b'{"model_type": "llama"}'
    weights = (20).to_bytes(8, "little") + b'{"__metadata__": {}}'
    blob = hashlib.sha1(b"blob %d\0" % len(small) + small, usedforsecurity=False).hexdigest()
    commit = "c" * 40
    listing = {
        "sha": commit,
        "siblings": [
            {"rfilename": "config.json", "size": len(small), "blobId": blob},
            {"rfilename": "model.safetensors", "lfs": {"sha256": sha256(weights), "size": len(weights)}},
            {"rfilename": "consolidated.safetensors", "lfs": {"sha256": "0" * 64, "size": 9}},
            {"rfilename": "pytorch_model.bin", "lfs": {"sha256": "1" * 64, "size": 9}},
            {"rfilename": "modeling.py", "size": 3, "blobId": "2" * 40},
        ],
    }
    hub.files["/api/models/some/repo/revision/main?blobs=true"] = json.dumps(listing).encode()
    hub.files[f"/some/repo/resolve/{commit}/config.json"] = small
    hub.files[f"/some/repo/resolve/{commit}/model.safetensors"] = weights
    artifact = Artifact(format="safetensors", files=(), sources=("hf:some/repo@main",), entry="config.json")
    wanted = ModelDocument(id="sample", task="chat", context_tokens=128, artifacts=(artifact,))
    path = await store(tmp_path, hub_url=hub.url).fetch(wanted, "safetensors")
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        ".cloudcrest.json",
        "config.json",
        "model.safetensors",
    ]
    assert store(tmp_path, hub_url=OFFLINE).ready_path(wanted, "safetensors") == path
    path.unlink()
    hub.files["/api/models/some/repo/revision/main?blobs=true"] = b"{}"
    assert await store(tmp_path, hub_url=hub.url).fetch(wanted, "safetensors") == path


async def test_a_small_file_that_is_not_what_the_hub_lists_is_not_pinned(hub: Hub, tmp_path: Path) -> None:
    listing = {"sha": "c" * 40, "siblings": [{"rfilename": "config.json", "size": 2, "blobId": "2" * 40}]}
    hub.files["/api/models/some/repo/revision/main?blobs=true"] = json.dumps(listing).encode()
    hub.files[f"/some/repo/resolve/{'c' * 40}/config.json"] = b"{}"
    artifact = Artifact(format="safetensors", files=(), sources=("hf:some/repo@main",), entry="config.json")
    wanted = ModelDocument(id="sample", task="chat", context_tokens=128, artifacts=(artifact,))
    with pytest.raises(Unavailable, match="not the file that the hub lists"):
        await store(tmp_path, hub_url=hub.url).fetch(wanted, "safetensors")
    assert not (tmp_path / ".pins").exists()


async def test_modelscope_lists_and_gives_files(hub: Hub, tmp_path: Path) -> None:
    entry = {"Path": "model.gguf", "Size": len(GGUF), "Sha256": sha256(GGUF), "Type": "blob"}
    files = {"Data": {"Files": [entry, {"Path": "folder", "Type": "tree"}]}, "Code": 200}
    hub.files["/api/v1/models/some/repo/repo/files?Revision=master&Recursive=true"] = json.dumps(files).encode()
    hub.files["/api/v1/models/some/repo/repo?Revision=master&FilePath=model.gguf"] = GGUF
    path = await store(tmp_path, hub_url=hub.url).fetch(model("modelscope:some/repo", files=()), "gguf")
    assert path.read_bytes() == GGUF


async def test_local_files_are_copied_and_links_out_of_their_folder_are_not_followed(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "model.gguf").write_bytes(GGUF)
    ours = store(tmp_path / "store")
    assert (await ours.fetch(model(f"file:{shelf}"), "gguf")).read_bytes() == GGUF
    one = store(tmp_path / "one")
    assert (await one.fetch(model(f"file:{shelf}/model.gguf", files=()), "gguf")).read_bytes() == GGUF
    (tmp_path / "secret").write_bytes(b"GGUF secret")
    (shelf / "link.gguf").symlink_to(tmp_path / "secret")
    outside = model(f"file:{shelf}", files=(listed(b"GGUF secret", "link.gguf"),), entry="link.gguf")
    with pytest.raises(Unavailable, match="points outside"):
        await ours.fetch(outside, "gguf")
    missing = model(f"file:{shelf}", files=(listed(b"x", "absent.gguf"),), entry="absent.gguf")
    with pytest.raises(Unavailable, match="there is no file"):
        await ours.fetch(missing, "gguf")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.gguf", pickle.dumps({"weights": [1.0]})),
        ("config.json", pickle.dumps({"weights": [1.0]}, protocol=4)),
        ("config.json", b"PK\x03\x04" + b"\0" * 60),
        ("model.safetensors", pickle.dumps([1])),
    ],
)
async def test_a_pickle_under_another_name_is_refused_though_its_hash_is_right(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    ours = store(tmp_path / "store")
    with pytest.raises(Unavailable, match=r"whatever its name says|under another name"):
        await ours.fetch(model(f"file:{tmp_path}", files=(listed(content, name),), entry=name), "gguf")
    assert not list((tmp_path / "store").rglob(name))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/b.pt", "x.PKL", "../up.gguf", "/root.gguf", "a\\b.gguf"])
async def test_a_name_of_a_pickle_or_out_of_the_folder_is_refused_before_anything_is_asked(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    files = (ArtifactFile(name, "0" * 64, 1),)
    with pytest.raises(UnsafeFile):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE, files=files, entry=name), "gguf")
    assert hub.requests == []


async def test_s3_without_its_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(Unavailable, match=r"s3fs.*cloudcrest\[s3\]"):
        await store(tmp_path).fetch(model("s3://bucket/folder"), "gguf")


async def test_an_object_store_is_read_from_where_a_break_left_off(tmp_path: Path) -> None:
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/catalog-test/folder/model.gguf", GGUF)
    sources: Registry[SourceCreator] = Registry("artifact source", {"s3": partial(ObjectStoreFiles, filesystem=bucket)})
    ours = ArtifactStore(tmp_path, sources=sources, environ={}, free_bytes=lambda _: 10**12)
    wanted = model("s3://catalog-test/folder")
    assert (await ours.fetch(wanted, "gguf")).read_bytes() == GGUF
    with pytest.raises(Unavailable, match="there is no object"):
        await ours.fetch(model("s3://catalog-test/empty", files=(listed(b"GGUF"),)), "gguf")
