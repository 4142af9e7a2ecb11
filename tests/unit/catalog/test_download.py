"""Downloads that break, lie and move, over real sockets."""

from pathlib import Path

import pytest

from cloudcrest.catalog.api import PullProgress
from cloudcrest.kernel.errors import Unavailable
from tests.unit.catalog.hub import Hub
from tests.unit.catalog.samples import GGUF, OFFLINE, listed, model, store

pytestmark = pytest.mark.anyio

FILE = "/some/repo/resolve/main/model.gguf"
SOURCE = "hf:some/repo@main"


async def test_a_file_is_fetched_verified_and_found_again(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    seen: list[PullProgress] = []
    ours = store(tmp_path, hub_url=hub.url)
    assert ours.ready_path(model(SOURCE), "gguf") is None
    path = await ours.fetch(model(SOURCE), "gguf", seen.append)
    assert path.read_bytes() == GGUF
    assert ours.ready_path(model(SOURCE), "gguf") == path
    assert next(progress.phase for progress in seen) == "downloading"
    assert [progress.phase for progress in seen][-2:] == ["verifying", "ready"]
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(GGUF)
    assert await ours.fetch(model(SOURCE), "gguf") == path
    assert len(hub.requests) == 1
    assert not list((tmp_path / ".work").iterdir())


async def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    hub.break_after_bytes = [100_000, 50_000]
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF
    assert hub.offsets == [None, 100_000, 150_000]


async def test_what_came_is_kept_for_the_next_fetch(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    hub.break_after_bytes = [100_000, 0]
    with pytest.raises(Unavailable, match="kept for the next try"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF
    assert hub.offsets == [None, 100_000, 100_000]


async def test_a_server_without_range_starts_over(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    hub.honours_range = False
    hub.break_after_bytes = [100_000]
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF
    assert hub.offsets == [None, 100_000]


async def test_a_first_half_of_another_day_starts_over(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = b"GGUF" + b"old" * 50_000
    hub.break_after_bytes = [100_000, 0]
    with pytest.raises(Unavailable):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    hub.files[FILE] = GGUF
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert path.read_bytes() == GGUF
    assert hub.offsets[-2:] == [100_000, None]


async def test_a_lying_file_is_removed_and_the_next_source_tried(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF[:-1] + b"!"
    hub.files["/good/repo/resolve/main/model.gguf"] = GGUF
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE, "hf:good/repo@main"), "gguf")
    assert path.read_bytes() == GGUF


async def test_a_lying_file_alone_is_one_clear_error_and_nothing_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF[:-1] + b"!"
    ours = store(tmp_path, hub_url=hub.url)
    seen: list[PullProgress] = []
    with pytest.raises(Unavailable, match=r"came with SHA-256 .* it is removed"):
        await ours.fetch(model(SOURCE), "gguf", seen.append)
    assert seen[-1].phase == "failed"
    assert "SHA-256" in (seen[-1].reason or "")
    assert ours.ready_path(model(SOURCE), "gguf") is None
    assert not list(tmp_path.rglob("*.gguf"))  # noqa: ASYNC240 - a small folder


async def test_a_truncated_file_of_unannounced_length_is_not_accepted(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF[:1000]
    hub.announces_length = False
    with pytest.raises(Unavailable, match="rest of this file"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_more_than_the_file_has_is_cut_off(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF + b"more"
    with pytest.raises(Unavailable, match="sends more"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_redirects_are_followed_and_the_token_stays_with_its_hub(hub: Hub, tmp_path: Path) -> None:
    elsewhere = hub.url.replace("127.0.0.1", "localhost")
    hub.redirects[FILE] = f"{elsewhere}/cdn/blob"
    hub.files["/cdn/blob"] = GGUF
    ours = store(tmp_path, hub_url=hub.url, environ={"HF_TOKEN": "hf_secret"})
    assert (await ours.fetch(model(SOURCE), "gguf")).read_bytes() == GGUF
    assert [b"hf_secret" in head for head in hub.headers] == [True, False]


async def test_a_redirect_that_leads_nowhere_is_a_reason(hub: Hub, tmp_path: Path) -> None:
    hub.redirects[FILE] = FILE
    with pytest.raises(Unavailable, match="does not lead to the file"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")
    hub.redirects[FILE] = "gopher://hub/model.gguf"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE), "gguf")


async def test_a_busy_hub_is_asked_again_and_a_refusing_one_is_not(hub: Hub, tmp_path: Path) -> None:
    hub.files[FILE] = GGUF
    hub.statuses[FILE] = [503]
    assert (await store(tmp_path / "a", hub_url=hub.url).fetch(model(SOURCE), "gguf")).read_bytes() == GGUF
    hub.statuses[FILE] = [401]
    with pytest.raises(Unavailable, match="asks for a token"):
        await store(tmp_path / "b", hub_url=hub.url).fetch(model(SOURCE), "gguf")
    assert len(hub.requests) == 3


async def test_every_source_that_failed_is_named_with_its_reason(hub: Hub, tmp_path: Path) -> None:
    wanted = model("hf:some/repo", "upstream:provider", "carrier-pigeon:loft", "modelscope:some/repo", "pypi:a==1!b/")
    with pytest.raises(Unavailable) as caught:
        await store(tmp_path, hub_url=hub.url).fetch(wanted, "gguf")
    message = caught.value.message
    for uri in wanted.artifacts[0].sources:
        assert uri in message
    for reason in ("answers 404", "lives at a provider", "no artifact source 'carrier-pigeon'"):
        assert reason in message


async def test_a_host_that_cannot_be_reached_costs_one_attempt(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await store(tmp_path, hub_url=OFFLINE).fetch(model(SOURCE), "gguf")


async def test_files_that_one_source_gave_are_not_asked_of_the_next(hub: Hub, tmp_path: Path) -> None:
    files = (listed(GGUF), listed(b"{}", "extra.json"))
    hub.files[FILE] = GGUF
    hub.files["/some/repo/resolve/main/extra.json"] = b"[]"
    hub.files["/good/repo/resolve/main/extra.json"] = b"{}"
    path = await store(tmp_path, hub_url=hub.url).fetch(model(SOURCE, "hf:good/repo@main", files=files), "gguf")
    assert (path.parent / "extra.json").read_bytes() == b"{}"
    assert [path for path, _ in hub.requests].count("/good/repo/resolve/main/model.gguf") == 0


async def test_what_a_source_gave_before_it_failed_is_kept(hub: Hub, tmp_path: Path) -> None:
    files = (listed(GGUF), listed(b"{}", "extra.json"))
    hub.files[FILE] = GGUF
    ours = store(tmp_path, hub_url=hub.url)
    with pytest.raises(Unavailable, match="answers 404"):
        await ours.fetch(model(SOURCE, files=files), "gguf")
    hub.files["/good/repo/resolve/main/extra.json"] = b"{}"
    hub.requests.clear()
    await ours.fetch(model("hf:good/repo@main", files=files), "gguf")
    assert [path for path, _ in hub.requests] == ["/good/repo/resolve/main/extra.json"]
