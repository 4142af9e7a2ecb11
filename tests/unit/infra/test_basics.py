"""Settings, logs, sealing, files and the object store."""

import errno
import io
import json
import logging
import os
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import structlog

from cloudcrest.infra.files import free_bytes, write_atomic
from cloudcrest.infra.logs import MASK, configure_logs
from cloudcrest.infra.objects import PIECE_BYTES, ObjectStore
from cloudcrest.infra.sealing import Sealer
from cloudcrest.infra.settings import load_settings
from cloudcrest.kernel.errors import InvalidInput, NotFound, SetupError, TooLarge


class Example(msgspec.Struct, frozen=True):
    port: int = 8080
    ratio: float = 0.5
    is_open: bool = False
    name: str = "x"
    hosts: tuple[str, ...] = ()
    credit: Decimal = Decimal(5)
    folder: Path | None = None
    options: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.port == 1:
            raise ValueError("port 1 is taken")


def test_settings_come_from_variables_then_overrides() -> None:
    env = {
        "CLOUDCREST_PORT": "99",
        "CLOUDCREST_IS_OPEN": "true",
        "CLOUDCREST_HOSTS": "a, b",
        "CLOUDCREST_CREDIT": "0.10",
        "CLOUDCREST_OPTIONS": '{"n": 1}',
        "CLOUDCREST_NAME": "",
        "CLOUDCREST_SOMETHING_ELSE": "1",
    }
    settings = load_settings(Example, env, overrides={"ratio": 2})
    assert settings == Example(
        port=99, ratio=2.0, is_open=True, hosts=("a", "b"), credit=Decimal("0.10"), options={"n": 1}
    )
    assert load_settings(Example, env, overrides={"port": 5}).port == 5


def test_a_wrong_setting_is_named_and_its_value_is_not() -> None:
    with pytest.raises(SetupError, match="CLOUDCREST_PORT is not valid") as caught:
        load_settings(Example, {"CLOUDCREST_PORT": "s3cret"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SetupError, match="CLOUDCREST_OPTIONS"):
        load_settings(Example, {"CLOUDCREST_OPTIONS": "{broken"})
    with pytest.raises(SetupError, match="port 1 is taken"):
        load_settings(Example, {"CLOUDCREST_PORT": "1"})


def test_a_required_setting_is_asked_for() -> None:
    required = msgspec.defstruct("Required", [("token", str)])
    with pytest.raises(SetupError, match="CLOUDCREST_TOKEN is not set"):
        load_settings(required, {})


@pytest.fixture
def log_lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _restore_logging() -> object:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_logs_are_json_lines_without_secrets(log_lines: io.StringIO) -> None:
    configure_logs("test", json=True, stream=log_lines)
    structlog.get_logger("a").info(
        "signed_in",
        password="p",
        headers={"Authorization": "Bearer abcdefghijkl", "accept": "json"},
        text="key sk-cc-0123456789abcdef was used",
        url="postgresql://user:hunter2@host/db",
        output_tokens=7,
        region_token="t",
    )
    line = json.loads(log_lines.getvalue())
    assert line["event"] == "signed_in"
    assert line["process"] == "test"
    assert line["password"] == line["region_token"] == MASK
    assert line["headers"] == {"Authorization": MASK, "accept": "json"}
    assert line["text"] == f"key {MASK} was used"
    assert line["url"] == f"postgresql://user:{MASK}@host/db"
    assert line["output_tokens"] == 7


def test_other_libraries_logs_and_tracebacks_pass_through_the_same_mask(log_lines: io.StringIO) -> None:
    configure_logs("test", json=True, stream=log_lines)
    try:
        raise ValueError("sk-cc-0123456789abcdef")
    except ValueError:
        logging.getLogger("library").exception("failed with %s", "Bearer abcdefghijkl")
    line = json.loads(log_lines.getvalue())
    assert line["event"] == f"failed with Bearer {MASK}"
    assert "ValueError" in line["exception"]
    assert "sk-cc-0" not in log_lines.getvalue()


def test_levels_hold(log_lines: io.StringIO) -> None:
    configure_logs("test", json=False, level="warning", stream=log_lines)
    structlog.get_logger("a").info("quiet")
    structlog.get_logger("a").warning("loud")
    assert "loud" in log_lines.getvalue()
    assert "quiet" not in log_lines.getvalue()


def test_sealing_hides_and_opens() -> None:
    sealer = Sealer(Sealer.new_master_key())
    sealed = sealer.seal("sk-upstream")
    assert "upstream" not in sealed
    assert sealer.open(sealed) == "sk-upstream"
    with pytest.raises(SetupError, match="another master key"):
        Sealer(Sealer.new_master_key()).open(sealed)
    with pytest.raises(SetupError, match="master key is not"):
        Sealer("short")


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="is full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_free_space_of_a_folder_to_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.anyio
async def test_objects_are_stored_listed_and_removed(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"))
    await store.put("files/a/content", b"one")
    await store.put("files/b/content", b"two")
    await store.put("files/a/content", b"three")
    assert await store.get("files/a/content") == b"three"
    assert await store.keys("files") == ["files/a/content", "files/b/content"]
    await store.delete("files/a/content")
    await store.delete("files/a/content")
    with pytest.raises(NotFound):
        await store.get("files/a/content")


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["", "../x", "a/../b", "/etc/passwd", "a//b", ".hidden", "a/" * 300 + "b", "a b"])
async def test_keys_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidInput):
        await ObjectStore(str(tmp_path)).put(key, b"")


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["folder", "memory"])
async def test_objects_in_pieces_are_whole_or_not_there(tmp_path: Path, where: str) -> None:
    store = ObjectStore(str(tmp_path / "objects") if where == "folder" else f"memory://{tmp_path.name}")
    async with store.writer("files/a") as writer:
        for _ in range(5):
            await writer.write(b"x" * 700_000)
    pieces = [piece async for piece in store.pieces("files/a")]
    assert (len(b"".join(pieces)), writer.size_bytes, max(map(len, pieces))) == (3_500_000, 3_500_000, PIECE_BYTES)
    assert await store.part("files/a", 10, 20) == b"x" * 10
    with pytest.raises(TooLarge):
        async with store.writer("files/b", max_bytes=5) as writer:
            await writer.write(b"123456")
    if where == "folder":  # fsspec's store in memory cannot take back what it was given
        assert await store.keys("files") == ["files/a"]
        assert os.listdir(tmp_path / "objects/.unfinished") == []
