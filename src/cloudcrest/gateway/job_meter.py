"""What jobs are charged for the seconds they run, held to budgets as requests are.

A member's running time is cut into slices of a minute. Each is reserved of every budget it falls under before it
begins, and is an event of its own when it is over, whose id follows from the member and the number of the slice:
whoever meters on after a crash makes the same events again, and each counts once. Where the next slice cannot be
reserved, the job has what is paid for to come to its end.

    member   0 s ────────── 60 s ────────── 120 s ───── 150 s
             slice 0         slice 1         slice 2 (30 s of it)
"""

import asyncio
import hashlib
from pathlib import Path

import msgspec
import structlog

from cloudcrest.compute.jobs.api import MeteredMember
from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.gateway.budget import SECOND, Wallet
from cloudcrest.gateway.claims import Claims
from cloudcrest.gateway.desk import Desk, Exchange
from cloudcrest.gateway.purse import Beside, Claim
from cloudcrest.gateway.record import Recorder, Spool
from cloudcrest.identity.api import KeyDocument
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, LimitExceeded, SetupError
from cloudcrest.kernel.ids import encode_ulid
from cloudcrest.kernel.usage import Usage, UsageEvent
from cloudcrest.metering.rows import row_of, shared_of
from cloudcrest.metering.spool import Shared

SLICE_MILLISECONDS = 60_000
AHEAD_MILLISECONDS = 20_000
"""So long before a member would have to be told to stop, its next slice is asked for."""
LAST_MILLISECONDS = 5_000
"""So long before that it is told, where the slice was not to be had."""
NAME = "jobs"
"""The gateway, the key and the endpoint of these events: no caller stands behind them."""
_RETRY_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class _Kept(msgspec.Struct):
    """What is on disk of a member: how many slices were written, up to what millisecond it was seen running."""

    slices: int = 0
    until: int = 0


class JobMeter:
    """That of a region; implements `compute.jobs.api.JobMeter`. `holder`: the name of its spool's folder. `journal`: a
    file of its own.
    """

    def __init__(self, *, region: str, spool: Spool, holder: str, journal: Path, clock: Clock) -> None:
        self._region = region
        self._recorder = Recorder(spool)
        self._desk = Desk(Wallet(holder))
        self._claims = Claims(self._desk.wallet, 2 * SLICE_MILLISECONDS * SECOND // 1000)
        self._journal = journal
        self._clock = clock
        self._kept = _read(journal)
        self._reserved: dict[str, dict[int, Claim | None]] = {}

    def update(self, state: FeedState, kinds: set[str]) -> None:
        """Follows budgets and rate cards."""
        self._claims.update(state, kinds)

    async def run(self, exchange: Exchange) -> None:
        """Asks for grants, and writes what the disk refused, until cancelled."""
        asking = asyncio.create_task(self._desk.run(exchange))
        try:
            while True:
                await asyncio.sleep(_RETRY_SECONDS)
                self._recorder.retry()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            self._recorder.close()

    async def open(self, member: MeteredMember) -> None:
        """Before its command starts. Raises `LimitExceeded` where a hard budget does not cover its first minutes."""
        try:
            await self._cover(member, _to_reserve(member, 0))
        except CloudcrestError:
            self._let_go(member.id)
            raise

    async def mark(self, member: MeteredMember, started_at: float, until: float) -> None:
        """It has run from `started_at` to `until` (Unix seconds) and goes on. Raises `LimitExceeded` where what is paid
        for is just enough to end in.
        """
        ran = max(0, round((until - started_at) * 1000))
        kept = self._kept.setdefault(member.id, _Kept())
        await self._write(member, started_at, ran // SLICE_MILLISECONDS, 0)
        kept.until = max(kept.until, ran)
        self._save()
        try:
            await self._cover(member, _to_reserve(member, ran))
        except CloudcrestError as error:
            paid = SLICE_MILLISECONDS * (1 + max(self._slices(member.id), default=-1))
            if paid - ran <= member.grace_seconds * 1000 + LAST_MILLISECONDS:
                raise LimitExceeded(
                    f"what is left of its budget does not pay for another minute: {error.message}",
                    code="insufficient_quota",
                    hint="add to the budget; the job's checkpoints are kept",
                ) from error

    async def close(self, member: MeteredMember, started_at: float | None, ended_at: float | None) -> None:
        """It has ended; `started_at` None: it never began, `ended_at` None: nobody knows when, after it was last seen.
        Raises `Unavailable` where it cannot be written now.
        """
        kept = self._kept.get(member.id, _Kept())
        if started_at is not None:
            ran = kept.until if ended_at is None else max(0, round((ended_at - started_at) * 1000))
            await self._write(member, started_at, ran // SLICE_MILLISECONDS, ran % SLICE_MILLISECONDS)
        self._let_go(member.id)
        if self._kept.pop(member.id, None) is not None:
            self._save()

    async def _cover(self, member: MeteredMember, slices: int) -> None:
        """Reserves up to so many slices, from what is not written yet on."""
        written = self._kept[member.id].slices if member.id in self._kept else 0
        for number in range(written, slices):
            if number not in self._slices(member.id):
                self._slices(member.id)[number] = await self._reserve(member)

    async def _reserve(self, member: MeteredMember) -> Claim | None:
        """One slice. None: no budget holds it. Raises `LimitExceeded` and `Unavailable`."""
        whole = _usage(member, SLICE_MILLISECONDS)
        most = Beside(accelerator_milliseconds=whole.accelerator_milliseconds, cpu_milliseconds=whole.cpu_milliseconds)
        payer = KeyDocument(f"{NAME} of {member.project_id}", "", member.project_id, member.organization_id)
        now = round(self._clock.unix_seconds() * SECOND)
        claim = self._claims.of_other(payer, self._model(member), most, now)
        if claim is None or self._desk.wallet.reserve(claim):
            return claim
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(error: CloudcrestError | None) -> None:
            if decided.done():  # nobody waits any more
                if error is None:
                    claim.settle(0)
            elif error is None:
                decided.set_result(None)
            else:
                decided.set_exception(error)

        cancel = self._desk.wait(claim, tell)
        try:
            await decided
        except asyncio.CancelledError:
            cancel()
            raise
        return claim

    async def _write(self, member: MeteredMember, started_at: float, whole: int, rest: int) -> None:
        """Events of the slices that are over: `whole` ones, and `rest` milliseconds of one more at the end."""
        kept = self._kept.setdefault(member.id, _Kept())
        parts = [(number, SLICE_MILLISECONDS) for number in range(kept.slices, whole)]
        if rest and kept.slices <= whole:
            parts.append((whole, rest))
        for number, milliseconds in parts:
            slices = self._slices(member.id)
            if number not in slices:  # reserved by the process before, whose reservations are gone with it
                try:
                    slices[number] = await self._reserve(member)
                except LimitExceeded as error:
                    _log.error("slice_not_charged", member=member.id, slice=number, error=error.message)
                    kept.slices = number + 1
                    continue
            claim = slices[number]
            event = self._event(member, started_at, number, milliseconds, claim)
            row, shared = row_of(event), Shared(shared_of(event))
            self._recorder.open(row, shared)
            self._recorder.end(row, shared)
            if claim is not None:
                claim.settle(claim.charge(event.usage))
            del slices[number]
            kept.slices = number + 1

    def _event(
        self, member: MeteredMember, started_at: float, number: int, milliseconds: int, claim: Claim | None
    ) -> UsageEvent:
        began = round(started_at * 1000) + number * SLICE_MILLISECONDS
        usage = _usage(member, milliseconds)
        digest = hashlib.sha256(f"{member.id}/{number}".encode()).digest()
        return UsageEvent(
            id=f"sec_{encode_ulid(began, int.from_bytes(digest[:10], 'big'))}",
            started_at_microseconds=began * 1000,
            duration_milliseconds=milliseconds,
            first_token_milliseconds=None,
            region=self._region,
            gateway=NAME,
            organization_id=member.organization_id,
            project_id=member.project_id,
            key_id=NAME,
            model=self._model(member),
            deployment_id=member.job_id,
            replica_id=member.id,
            endpoint="/v1/jobs",
            outcome="completed",
            usage=usage if claim is None else claim.within(usage),
            grants=() if claim is None else claim.holds(),
            rate_card_id="" if claim is None else claim.rate_card_id,
        )

    def _model(self, member: MeteredMember) -> str:
        """What it is priced as: spot work by a rate card of its own, where there is one."""
        plain = f"compute/{member.accelerator_type or 'cpu'}"
        return f"{plain}/spot" if member.is_spot and self._claims.has_price(f"{plain}/spot") else plain

    def _slices(self, member_id: str) -> dict[int, Claim | None]:
        return self._reserved.setdefault(member_id, {})

    def _let_go(self, member_id: str) -> None:
        for claim in self._reserved.pop(member_id, {}).values():
            if claim is not None:
                claim.settle(0)

    def _save(self) -> None:
        try:
            write_atomic(self._journal, msgspec.json.encode(self._kept))
        except (OSError, SetupError) as error:  # events are made again after a restart, and count once
            _log.warning("journal_not_written", error=str(error))


def _to_reserve(member: MeteredMember, ran: int) -> int:
    """How many slices, from the first on, are to be reserved when it has run for so many milliseconds."""
    until = ran + round(member.grace_seconds * 1000) + LAST_MILLISECONDS + AHEAD_MILLISECONDS
    return until // SLICE_MILLISECONDS + 1


def _usage(member: MeteredMember, milliseconds: int) -> Usage:
    return Usage(
        0,
        0,
        accelerator_milliseconds=member.accelerators * member.milli * milliseconds // WHOLE,
        cpu_milliseconds=member.cpu_milli * milliseconds // WHOLE,
    )


def _read(journal: Path) -> dict[str, _Kept]:
    try:
        return msgspec.json.decode(journal.read_bytes(), type=dict[str, _Kept])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("journal_not_read", error=str(error))
        return {}
