"""A job's output as it comes: server-sent events, over its attempts, until it has ended.

    event: log
    id: 1:6
    data: {"attempt": 1, "member": 0, "offset": 0, "next_offset": 6, "text": "hello\n"}

    event: end
    data: {"state": "succeeded", "reason": "it exited with code 0"}

Who comes back with the id of the last event (Last-Event-ID) goes on after it. A comment comes every few seconds where
there is nothing to say. Text that is no UTF-8 is shown as far as it goes; a character is never cut in two.
"""

import asyncio
import codecs
from collections.abc import AsyncIterator, Mapping

import msgspec

from cloudcrest.compute.jobs.api import FINAL_STATES, JobReport
from cloudcrest.compute.jobs.controller import JobController
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.store import JobStore, log_prefix
from cloudcrest.kernel.errors import CloudcrestError, NotFound
from cloudcrest.kernel.units import KIB

_READ_BYTES = 64 * KIB
_WAIT_SECONDS = 10
_LOOK_SECONDS = 0.3
_QUIET_LOOKS = 40
_KEEP_ALIVE = b": still here\n\n"


class Followed(msgspec.Struct):
    """Where a follower is. `goes_on`: to the next attempt when this one has ended."""

    project_id: str
    job_id: str
    attempt: int
    member: int
    offset: int
    goes_on: bool


async def follow(at: Followed, controller: JobController, link: RunnerLink, store: JobStore) -> AsyncIterator[bytes]:
    """The events."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    quiet = 0
    yield _KEEP_ALIVE  # the answer's head goes out
    while True:
        begin, data, is_live = await _read(at, controller, link, store)
        if data:
            quiet = 0
            if begin != at.offset:
                decoder.reset()
            at.offset = begin + len(data)
            if text := decoder.decode(data):
                place = {"attempt": at.attempt, "member": at.member, "offset": begin, "next_offset": at.offset}
                yield _event("log", {**place, "text": text}, f"{at.attempt}:{at.offset - _held(decoder)}")
            continue
        report = await _report(at, controller, store)
        is_over = report is None or report.state in FINAL_STATES
        if not is_live and report is not None and report.attempt > at.attempt:
            if not at.goes_on:
                is_over = True
            else:
                at.attempt, at.offset = at.attempt + 1, 0
                decoder.reset()
                continue
        if is_over and not is_live:
            ended = {"state": report.state, "reason": report.reason} if report is not None else {"state": "gone"}
            yield _event("end", ended)
            return
        quiet += 1
        if is_live or quiet % _QUIET_LOOKS == 0:
            yield _KEEP_ALIVE
        await asyncio.sleep(_LOOK_SECONDS)


async def _read(at: Followed, controller: JobController, link: RunnerLink, store: JobStore) -> tuple[int, bytes, bool]:
    """Output from where the follower is, and whether more may come of this attempt while nobody asks the store."""
    entry = controller.find(at.project_id, at.job_id)
    if entry is not None and entry.attempt == at.attempt and at.member < len(entry.members):
        try:
            chunk = await link.log(entry.members[at.member], at.offset, _READ_BYTES, _WAIT_SECONDS)
        except CloudcrestError:
            # It starts, or its node is away: the store has what there is when its attempt has ended.
            return at.offset, b"", True
        return chunk.offset, chunk.data, True
    begin, data = await store.read_log(
        log_prefix(at.project_id, at.job_id, at.attempt, at.member), at.offset, _READ_BYTES
    )
    return begin, data, False


async def _report(at: Followed, controller: JobController, store: JobStore) -> JobReport | None:
    entry = controller.find(at.project_id, at.job_id)
    if entry is not None:
        return entry.report()
    try:
        return await store.report(at.project_id, at.job_id)
    except NotFound:
        return None


def last_event(event_id: str) -> tuple[int, int] | None:
    """The attempt and the offset that an event's id names; None for what is no such id."""
    attempt, _, offset = event_id.partition(":")
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in (attempt, offset)):
        return None
    return int(attempt), int(offset)


def _held(decoder: codecs.IncrementalDecoder) -> int:
    """Bytes of a character that is not whole yet."""
    return len(decoder.getstate()[0])


def _event(name: str, body: Mapping[str, object], event_id: str = "") -> bytes:
    head = f"event: {name}\nid: {event_id}\n" if event_id else f"event: {name}\n"
    return b"%bdata: %b\n\n" % (head.encode(), msgspec.json.encode(body))
