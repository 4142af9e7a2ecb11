"""The shipper: each event arrives at least once, whatever fails and however often it starts again."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudcrest.kernel.errors import InvalidInput, PermissionDenied, Unauthenticated, Unavailable
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import FOREIGN_REGION_CODE, IngestReceipt, MarkRecord, UsageBatch
from cloudcrest.metering.segments import segment_name, segment_sequences
from cloudcrest.metering.shipper import REFUSED_NAME, Shipper
from cloudcrest.metering.spool import SpoolWriter
from tests.unit.metering.events import end_event, open_event, usage_event

pytestmark = pytest.mark.anyio
KIB = 1024


def spool_writer(folder: Path, name: str = "gateway-0") -> SpoolWriter:
    return SpoolWriter(folder, name, segment_bytes=16 * KIB, floor_bytes=0)


class ControlPlane:
    """Takes batches, each id once; fails as told, before or after it has taken one."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.events: dict[str, UsageEvent] = {}
        self.largest_batch = 0
        self.poison: set[str] = set()
        self._rng = rng

    async def send(self, batch: UsageBatch) -> IngestReceipt:
        dice = self._rng.random() if self._rng else 1.0
        if dice < 0.3:
            raise Unavailable("away")
        if any(event.id in self.poison for event in batch.events):
            raise InvalidInput("poison")
        self.largest_batch = max(self.largest_batch, len(batch.events))
        new = {event.id: event for event in batch.events if event.id not in self.events}
        self.events |= new
        if dice < 0.6:
            raise ConnectionResetError("the answer was lost")
        return IngestReceipt(len(new), len(batch.events) - len(new))


async def ship_all(shipper: Shipper) -> None:
    while await shipper.ship_once():
        pass


async def test_ended_events_arrive_and_their_segments_go(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    shipper = Shipper(tmp_path, control.send, max_batch_events=10)
    for number in range(100):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    await ship_all(shipper)
    assert control.events == {usage_event(number).id: usage_event(number) for number in range(100)}
    assert control.largest_batch == 10
    assert len(segment_sequences(writer.folder)) == 1
    writer.close()
    await ship_all(shipper)
    assert os.listdir(tmp_path) == []
    assert shipper.corrupt_pieces == 0


async def test_an_open_request_keeps_its_segment_until_it_ends(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    open_event(writer, usage_event(0))
    for number in range(1, 50):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    await ship_all(Shipper(tmp_path, control.send))
    assert segment_sequences(writer.folder)[0] == 1
    assert usage_event(0).id not in control.events
    end_event(writer, usage_event(0))
    shipper = Shipper(tmp_path, control.send)
    await ship_all(shipper)
    assert shipper.shipped_events == 1  # the restart repeats nothing
    assert len(segment_sequences(writer.folder)) == 1
    writer.close()


async def test_a_dead_workers_open_requests_settle_at_their_last_mark(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    for number in range(3):
        open_event(writer, usage_event(number))
    writer.mark(MarkRecord(usage_event(0).id, 90, 5000, 33))
    writer.mark(MarkRecord(usage_event(0).id, 95, 6000, 33))
    end_event(writer, usage_event(2))
    shipper = Shipper(tmp_path, control.send)
    await ship_all(shipper)
    assert list(control.events) == [usage_event(2).id]
    writer.close()
    await ship_all(shipper)
    marked, unmarked = control.events[usage_event(0).id], control.events[usage_event(1).id]
    assert (marked.outcome, unmarked.outcome) == ("gateway_lost", "gateway_lost")
    assert (marked.usage.output_tokens, marked.usage.is_estimate) == (95, True)
    assert (marked.duration_milliseconds, marked.first_token_milliseconds) == (6000, 33)
    assert (unmarked.usage.output_tokens, unmarked.usage.is_estimate) == (20, True)
    assert shipper.settled_events == 2
    assert os.listdir(tmp_path) == []


async def test_a_request_that_is_opened_again_settles_as_it_was_opened_last(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    open_event(writer, usage_event(0, model="asked"))
    open_event(writer, usage_event(0, model="fallback"))
    writer.mark(MarkRecord(usage_event(0).id, 30, 5000, 33))
    open_event(writer, usage_event(1, model="asked"))
    open_event(writer, usage_event(1, model="fallback"))
    end_event(writer, usage_event(1, model="fallback"))
    writer.close()
    await ship_all(Shipper(tmp_path, control.send))
    lost, ended = control.events[usage_event(0).id], control.events[usage_event(1).id]
    assert (lost.model, lost.outcome, lost.usage.output_tokens) == ("fallback", "gateway_lost", 30)
    assert (ended.model, ended.outcome) == ("fallback", "completed")
    assert os.listdir(tmp_path) == []


class Killed(BaseException):
    """The process ends here, by kill -9: nothing below may run on, and all it knew is gone."""


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Neither threads nor syncs: what a power cut costs is not the question."""

    async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.to_thread", at_once)
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr("cloudcrest.metering.spool._sync", lambda _: None)
        yield


@contextlib.contextmanager
def killed_at_random(rng: random.Random) -> Iterator[None]:
    """Ends the process now and then between any two changes that the shipper makes to files."""

    def perhaps(change: Callable[..., object]) -> Callable[..., None]:
        def changed(*arguments: Any, **options: Any) -> None:
            if rng.random() < 0.1:
                raise Killed
            change(*arguments, **options)
            if rng.random() < 0.1:
                raise Killed

        return changed

    def remove_in_pieces(folder: Path, **_: object) -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", perhaps(Path.unlink))
        patch.setattr("pathlib.Path.replace", perhaps(Path.replace))
        patch.setattr("pathlib.Path.rmdir", perhaps(Path.rmdir))
        patch.setattr("shutil.rmtree", remove_in_pieces)
        yield


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_kills_and_failures_lose_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    with no_waiting():
        await kill_and_fail(tmp_path_factory.mktemp("spool"), random.Random(seed))


async def kill_and_fail(folder: Path, rng: random.Random) -> None:
    control = ControlPlane(rng)
    writers = [spool_writer(folder, f"gateway-{index}") for index in range(2)]
    shipper = Shipper(folder, control.send, max_batch_events=7)
    opened: set[str] = set()
    ended: set[str] = set()

    async def ship() -> bool:
        nonlocal shipper
        try:
            with killed_at_random(rng):
                return await shipper.ship_once()
        except Unavailable:
            return True
        except Killed:
            shipper = Shipper(folder, control.send, max_batch_events=7)
            return True

    for number in range(60):
        writer, event = rng.choice(writers), usage_event(number)
        open_event(writer, event)
        opened.add(event.id)
        if rng.random() < 0.8:
            end_event(writer, event)
            ended.add(event.id)
        if rng.random() < 0.1:
            writers.remove(writer)
            writer.close()
            writers.append(spool_writer(folder, "gateway-9"))
        if rng.random() < 0.5:
            await ship()
    for writer in writers:
        writer.close()
    for _ in range(1000):
        if not await ship():
            break
    assert set(control.events) == opened
    assert {event_id for event_id, event in control.events.items() if event.outcome == "completed"} == ended
    assert os.listdir(folder) == []


async def test_damage_stops_nothing(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    for number in range(5):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    writer.close()
    segment = writer.folder / segment_name(1)
    data = bytearray(segment.read_bytes())
    data[data.rfind(usage_event(2).id.encode())] ^= 1  # in its end: the opening stands before
    segment.write_bytes(data + b"torn")
    shipper = Shipper(tmp_path, control.send)
    await ship_all(shipper)
    assert set(control.events) == {usage_event(number).id for number in range(5)}
    assert control.events[usage_event(2).id].outcome == "gateway_lost"
    assert shipper.corrupt_pieces == 2
    assert os.listdir(tmp_path) == []


async def test_rubbish_of_any_size_is_passed_over(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    open_event(writer, usage_event(1))
    writer.close()
    segment = writer.folder / segment_name(1)
    segment.write_bytes(bytes(3_000_000) + segment.read_bytes() + b"x" * 3_000_000)
    await ship_all(Shipper(tmp_path, control.send))
    assert set(control.events) == {usage_event(1).id}
    assert os.listdir(tmp_path) == []


async def test_a_folder_of_an_older_version_is_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    (tmp_path / "gateway-old").mkdir()
    (tmp_path / "gateway-old" / "0000000001.log").write_text("00000000 {}\n")
    open_event(writer, usage_event(1))
    end_event(writer, usage_event(1))
    writer.close()
    shipper = Shipper(tmp_path, control.send)
    await ship_all(shipper)
    await ship_all(shipper)
    assert set(control.events) == {usage_event(1).id}
    assert os.listdir(tmp_path) == ["gateway-old"]
    assert capsys.readouterr().out.count("spool_of_older_version") == 1


async def test_a_refused_event_is_set_aside_and_the_rest_arrives(tmp_path: Path) -> None:
    control, writer = ControlPlane(), spool_writer(tmp_path)
    control.poison = {usage_event(7).id}
    for number in range(20):
        open_event(writer, usage_event(number))
        end_event(writer, usage_event(number))
    shipper = Shipper(tmp_path, control.send)
    await ship_all(shipper)
    assert len(control.events) == 19
    assert shipper.refused_events == 1
    assert usage_event(7).id in (tmp_path / REFUSED_NAME).read_text()
    writer.close()


@pytest.mark.parametrize("error", [Unauthenticated("who?"), PermissionDenied("no"), OSError("reset")])
async def test_a_link_that_fails_sets_nothing_aside(tmp_path: Path, error: Exception) -> None:
    writer = spool_writer(tmp_path)
    open_event(writer, usage_event(1))
    end_event(writer, usage_event(1))

    async def refuse(batch: UsageBatch) -> IngestReceipt:
        raise error

    shipper = Shipper(tmp_path, refuse)
    with pytest.raises((Unauthenticated, PermissionDenied, Unavailable)):
        await shipper.ship_once()
    assert shipper.refused_events == 0
    control = ControlPlane()
    await ship_all(Shipper(tmp_path, control.send))
    assert set(control.events) == {usage_event(1).id}
    writer.close()


async def test_a_foreign_regions_event_is_set_aside(tmp_path: Path) -> None:
    writer = spool_writer(tmp_path)
    open_event(writer, usage_event(1))
    end_event(writer, usage_event(1))

    async def refuse(batch: UsageBatch) -> IngestReceipt:
        raise PermissionDenied("not yours", code=FOREIGN_REGION_CODE)

    shipper = Shipper(tmp_path, refuse)
    await ship_all(shipper)
    assert shipper.refused_events == 1
    writer.close()


async def test_waits_grow_to_their_limit_while_the_link_is_down(tmp_path: Path) -> None:
    writer = spool_writer(tmp_path)
    open_event(writer, usage_event(1))
    end_event(writer, usage_event(1))
    control = ControlPlane()
    waits: list[float] = []

    class Enough(BaseException):
        pass

    async def send(batch: UsageBatch) -> IngestReceipt:
        if len(waits) < 8:
            raise Unavailable("away")
        return await control.send(batch)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 10:
            raise Enough

    shipper = Shipper(tmp_path, send, poll_seconds=0.25, retry_seconds=(0.5, 30), sleep=sleep, jitter=lambda: 1.0)
    with pytest.raises(Enough):
        await shipper.run()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.25, 0.25]
    assert set(control.events) == {usage_event(1).id}
    writer.close()
