"""Runs batches: reads their input, asks line by line as capacity is idle, writes their files. Survives kill -9.

Everything that is known is in the database: a batch's status says what comes next, a line waits until its answer is
kept. What was under way when the process died is asked again under the same request id (batch_lines.py).
"""

import asyncio
import contextlib
from collections import deque
from datetime import timedelta

import httpx2
import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudcrest.content.api import OUTPUT_PURPOSE, Batch, Caller, object_key
from cloudcrest.content.batch_lines import (
    CANCELLED_CODE,
    EXPIRED_CODE,
    MAX_LINES,
    RESPONSES,
    Line,
    LineError,
    body_of,
    request_id,
    result_line,
    usage_of,
    verdict,
)
from cloudcrest.content.inference import Answer, Inference
from cloudcrest.content.reading import decode
from cloudcrest.content.repository import batches as repository
from cloudcrest.content.repository.batches import LineResult, WaitingLine
from cloudcrest.content.responses.fields import ResponseBody
from cloudcrest.content.service.batch_input import read_lines
from cloudcrest.content.service.files import Files
from cloudcrest.content.service.responses import Responses
from cloudcrest.content.settings import ContentSettings
from cloudcrest.content.tasks import first_line
from cloudcrest.gateway.errors import error_document
from cloudcrest.infra.database import Database
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, NotFound, Unavailable
from cloudcrest.kernel.places import next_in_turn

_PAGE_LINES = 200
_SHOWN_ERRORS = 100
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 30.0
_log = structlog.get_logger(__name__)


class BatchRunner:
    """Runs every batch of the region that has not ended, several at a time and all lines under one limit."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        files: Files,
        inference: Inference,
        responses: Responses,
        *,
        settings: ContentSettings,
        clock: Clock,
    ) -> None:
        self.database = database
        self.objects = objects
        self.files = files
        self._inference = inference
        self._responses = responses
        self.clock = clock
        self.slots = asyncio.Semaphore(settings.batch_requests_at_once)
        self._at_once = settings.batches_at_once
        self._runs: dict[str, _Run] = {}
        self._woken = asyncio.Event()

    def started(self, _: str) -> None:
        """There is a new batch."""
        self._woken.set()

    def cancelled(self, batch_id: str) -> None:
        """A batch is to begin no more requests."""
        run = self._runs.get(batch_id)
        if run is not None:
            run.cancelled.set()
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                try:
                    await self._begin(group)
                except (SQLAlchemyError, OSError) as error:
                    _log.warning("batches_not_read", error=first_line(error))
                try:
                    await asyncio.wait_for(self._woken.wait(), _LOOK_AGAIN_SECONDS)
                except TimeoutError:
                    continue

    async def ask(self, batch: Batch, body: bytes, request_id: str) -> Answer:
        """A line's answer. Raises `httpx2.HTTPError` where the gateway is lost, and what is wrong with the line."""
        if batch.endpoint != RESPONSES:
            return await self._inference.ask(
                batch.endpoint, body, key_id=batch.key_id, request_id=request_id, is_batch=True
            )
        caller = Caller(batch.organization_id, batch.project_id, batch.key_id)
        return await self._responses.answer_whole(caller, decode(body, ResponseBody), request_id)

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begins batches, as many as run at a time, the projects in turn."""
        room = self._at_once - len(self._runs)
        if room <= 0:
            return
        async with self.database.transaction() as session:
            unfinished = await repository.unfinished(session, self._at_once)
        waiting = [each for each in unfinished if each[0] not in self._runs]
        running = [run.project_id for run in self._runs.values()]
        for batch_id, project_id in next_in_turn(waiting, running, room):
            run = self._runs[batch_id] = _Run(self, batch_id, project_id)
            group.create_task(self._keep(run))

    async def _keep(self, run: "_Run") -> None:
        """Runs a batch to its end, patient with whatever is away."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    await run.to_its_end()
                    return
                except (SQLAlchemyError, OSError, Unavailable, NotFound) as error:
                    _log.warning("batch_held_up", batch=run.batch_id, error=first_line(error))
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        finally:
            del self._runs[run.batch_id]
            self._woken.set()


class _Run:
    """One batch on its way."""

    def __init__(self, runner: BatchRunner, batch_id: str, project_id: str) -> None:
        self.batch_id = batch_id
        self.project_id = project_id
        self.cancelled = asyncio.Event()
        self._runner = runner
        self._database = runner.database
        self._again: deque[WaitingLine] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause_seconds = 0.0
        self._resume_at = 0.0

    async def to_its_end(self) -> None:
        """Does what its status says comes next, until it has ended."""
        while True:
            async with self._database.transaction() as session:
                batch = await repository.get(session, self.batch_id)
            if batch is None or batch.ended_at is not None:
                return
            if batch.status == "validating":
                await self._validate(batch)
            elif batch.status == "in_progress":
                await self._ask_all(batch)
            else:
                await self._write_up(batch)

    async def _validate(self, batch: Batch) -> None:
        try:
            file = await self._runner.files.find(batch.project_id, batch.input_file_id)
        except NotFound:
            await self._fail(batch, [LineError("file_not_found", "the input file is gone")])
            return
        async with self._database.transaction() as session:
            await repository.clear_lines(session, batch.id)  # of a validation that was cut short
        errors: list[LineError] = []
        total = broken = 0
        held: list[Line] = []
        async for line in read_lines(self._runner.objects.pieces(file.object_key), batch.endpoint):
            total += 1
            if total > MAX_LINES:
                await self._fail(batch, [LineError("too_many_tasks", f"a batch may have {MAX_LINES} lines")])
                return
            if line.error is not None:
                broken += 1
                errors += [line.error] if broken <= _SHOWN_ERRORS else []
            held.append(line)
            if len(held) >= _PAGE_LINES:
                async with self._database.transaction() as session:
                    await repository.add_lines(session, batch.id, held)
                held = []
        if total == broken:
            await self._fail(batch, errors or [LineError("empty_file", "the input file has no lines")])
            return
        async with self._database.transaction() as session:
            await repository.add_lines(session, batch.id, held)
            await repository.change(
                session,
                batch.id,
                expected=("validating",),
                status="in_progress",
                in_progress_at=self._runner.clock.now(),
                total=total,
                failed=broken,
                errors=_builtins(errors) or None,
            )

    async def _fail(self, batch: Batch, errors: list[LineError]) -> None:
        async with self._database.transaction() as session:
            await repository.clear_lines(session, batch.id)
            now = self._runner.clock.now()
            await repository.change(
                session, batch.id, expected=("validating",), status="failed", ended_at=now, errors=_builtins(errors)
            )

    async def _ask_all(self, batch: Batch) -> None:
        """Asks every line that waits, until none does, the window is over or the batch is cancelled."""
        after = 0
        page: deque[WaitingLine] = deque()
        try:
            while not self.cancelled.is_set() and self._runner.clock.now() < batch.expires_at:
                if not page and not self._again:
                    async with self._database.transaction() as session:
                        page.extend(await repository.waiting(session, batch.id, after, _PAGE_LINES))
                    after = page[-1].number if page else after
                if not page and not self._again:
                    if not self._tasks:
                        break
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                    continue
                if not await self._has_slot(batch):
                    continue
                line = self._again.popleft() if self._again else page.popleft()
                task = asyncio.create_task(self._ask(batch, line))
                self._tasks.add(task)
                task.add_done_callback(self._asked)
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            self._again.clear()  # they wait in the database still
        async with self._database.transaction() as session:
            if await repository.waiting(session, batch.id, 0, 1) and not self._is_over(batch):
                return  # what was held up is looked at again
            now = self._runner.clock.now()
            await repository.change(
                session, batch.id, expected=("in_progress",), status="finalizing", finalizing_at=now
            )

    def _is_over(self, batch: Batch) -> bool:
        return self.cancelled.is_set() or self._runner.clock.now() >= batch.expires_at

    async def _has_slot(self, batch: Batch) -> bool:
        """Waits for one of all batches' slots; False: to look again whether the batch is to go on."""
        clock = self._runner.clock
        wait_seconds = min(self._resume_at - clock.monotonic(), (batch.expires_at - clock.now()).total_seconds())
        if wait_seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.cancelled.wait(), wait_seconds)
            return False
        await self._runner.slots.acquire()
        if self._is_over(batch) or self._resume_at > clock.monotonic():
            self._runner.slots.release()
            return False
        return True

    def _asked(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._runner.slots.release()
        if not task.cancelled() and task.exception() is not None:
            self._stand_back(0.0)
            _log.warning("line_not_kept", batch=self.batch_id, error=first_line(task.exception()))  # type: ignore[arg-type]

    async def _ask(self, batch: Batch, line: WaitingLine) -> None:
        """Asks one line and keeps its answer, or has it asked again."""
        runner = self._runner
        file_key = object_key(batch.project_id, batch.input_file_id)
        asked_as = _request_id(batch, line.number, line.attempt)
        try:
            body = body_of(await runner.objects.part(file_key, line.start_byte, line.end_byte))
            answer = await runner.ask(batch, body, asked_as)
        except httpx2.HTTPError as error:
            _log.info("line_lost", batch=batch.id, line=line.number, error=repr(error))
            self._stand_back(0.0)
            self._again.append(line)
            return
        except CloudcrestError as error:
            answer = Answer(error.status, asked_as, error_document(error))
        match verdict(answer.status, answer.body, line.attempt):
            case "same":
                self._stand_back(answer.retry_after_seconds)
                self._again.append(line)
            case "again":
                self._stand_back(answer.retry_after_seconds)
                async with self._database.transaction() as session:
                    await repository.set_attempt(session, batch.id, line.number, line.attempt + 1)
                self._again.append(WaitingLine(line.number, line.start_byte, line.end_byte, line.attempt + 1))
            case kept:
                await self._keep(batch, line, answer, is_done=kept == "done")

    async def _keep(self, batch: Batch, line: WaitingLine, answer: Answer, *, is_done: bool) -> None:
        self._pause_seconds = 0.0
        async with self._database.transaction() as session:
            await repository.record(
                session,
                batch.id,
                line.number,
                is_done=is_done,
                status_code=answer.status,
                body=answer.body,
                usage=usage_of(answer.body),
            )

    def _stand_back(self, seconds: float) -> None:
        """Begins nothing of this batch for a while, longer each time until something was answered."""
        now = self._runner.clock.monotonic()
        if now < self._resume_at:
            return  # others of the same moment have said so
        self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._resume_at = now + max(seconds, self._pause_seconds)

    async def _write_up(self, batch: Batch) -> None:
        """Writes the files, once each, and ends the batch."""
        is_cancelled = batch.status == "cancelling"
        async with self._database.transaction() as session:
            cause = CANCELLED_CODE if is_cancelled else EXPIRED_CODE
            told = "the batch was cancelled before it" if is_cancelled else "it did not run within the batch's window"
            await repository.give_up_waiting(session, batch.id, LineError(cause, told))
        if batch.output_file_id is None:
            await self._write(batch, repository.DONE, "output")
        if batch.error_file_id is None:
            await self._write(batch, repository.FAILED, "error")
        async with self._database.transaction() as session:
            await repository.end(session, batch.id, self._runner.clock.now(), is_cancelled=is_cancelled)
            await repository.clear_lines(session, batch.id)

    async def _write(self, batch: Batch, state: str, kind: str) -> None:
        async with self._database.transaction() as session:
            page = await repository.results(session, batch.id, state, 0, _PAGE_LINES)
        if not page:
            return
        async with self._runner.files.writing(
            batch.caller, f"{batch.id}_{kind}.jsonl", OUTPUT_PURPOSE, is_ours=True
        ) as (writer, draft):
            if batch.output_lifetime_seconds is not None:
                draft.lifetime = timedelta(seconds=batch.output_lifetime_seconds)
            # The file and the batch that names it are there at the same moment, so no restart writes a second one.
            draft.also = lambda session: repository.set_file(session, batch.id, **{f"{kind}_file_id": draft.id})
            while page:
                for result in page:
                    await writer.write(_result_line(batch, result))
                async with self._database.transaction() as session:
                    page = await repository.results(session, batch.id, state, page[-1].number, _PAGE_LINES)


def _request_id(batch: Batch, number: int, attempt: int) -> str:
    return request_id(batch.id, int(batch.created_at.timestamp() * 1000), number, attempt)


def _result_line(batch: Batch, result: LineResult) -> bytes:
    answer = None
    if result.body is not None and result.status_code is not None:
        answer = result.status_code, _request_id(batch, result.number, result.attempt), result.body
    return result_line(batch.id, result.number, result.custom_id, answer, result.error)


def _builtins(errors: list[LineError]) -> list[dict[str, object]]:
    return [
        {"code": error.code, "message": error.message, "param": error.param, "line": error.line} for error in errors
    ]
