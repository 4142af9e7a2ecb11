"""Reading one worker's spool folder, step by step, without ever holding more than a batch of it.

What must never happen is that an event is forgotten; an event sent twice costs nothing (ingest counts each id once).
So a segment goes only after everything before its end was acknowledged and every request opened in it has ended; the
file `shipped` remembers how far that is, to spare a restart the repetition, and may be lost at any time.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import structlog

from cloudcrest.kernel.units import MIB
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import EndRecord, MarkRecord, OpenRecord
from cloudcrest.metering.rows import SharedRow
from cloudcrest.metering.segments import (
    HEADER_BYTES,
    LOCK_NAME,
    MAX_BACK_BYTES,
    MAX_FRAME_BYTES,
    OLD_SEGMENT_SUFFIX,
    SPARE_NAME,
    Piece,
    frame_at,
    is_unwritten,
    read_frames,
    segment_name,
    shared_at,
)
from cloudcrest.metering.segments import segment_sequences as sequences_in

SHIPPED_NAME = "shipped"
_READ_BYTES = MIB
_MAX_SHARED = 2_000
"""More than can stand in what records look back on."""
_log = structlog.get_logger(__name__)


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a worker's spool: everything before it was read (or acknowledged)."""

    sequence: int = 0
    offset: int = 0


class _Open(msgspec.Struct):
    """A request that has not ended: where its record stands (not the record: memory), and its last mark."""

    sequence: int
    offset: int
    length: int
    mark: MarkRecord | None = None


class DrainBatch(msgspec.Struct, frozen=True):
    """Ended events, and the position that counts as shipped once they are acknowledged."""

    events: tuple[UsageEvent, ...]
    upto: Position


def is_of_older_version(folder: Path) -> bool:
    """Whether a worker's folder holds segments in a format that is not read any more."""
    return next(folder.glob(f"*{OLD_SEGMENT_SUFFIX}"), None) is not None


def settled_at_mark(event: UsageEvent, mark: MarkRecord | None) -> UsageEvent:
    """The event of a request whose gateway died: charged for what it had relayed at its last mark."""
    usage, first_token = event.usage, event.first_token_milliseconds
    output_tokens, duration = usage.output_tokens, event.duration_milliseconds
    if mark is not None:
        output_tokens = max(output_tokens, mark.output_tokens)
        duration = max(duration, mark.duration_milliseconds)
        first_token = first_token if mark.first_token_milliseconds is None else mark.first_token_milliseconds
    return msgspec.structs.replace(
        event,
        outcome="gateway_lost",
        duration_milliseconds=duration,
        first_token_milliseconds=first_token,
        usage=msgspec.structs.replace(usage, output_tokens=output_tokens, is_estimate=True),
    )


class WorkerDrain:
    """Follows one worker's folder. Memory: a chunk of 1 MiB and what that looks back on, a batch, and a few numbers for
    each request still open.

    Use: `batch = next_batch(500)`; send it; `acknowledge(batch)`; again until it is empty. When the worker is dead and
    `next_batch` is empty, `settle` gives what was still open, and `remove` ends the folder. Calls block on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corrupt_pieces = 0
        self._open: dict[str, _Open] = {}
        self._shipped = self._load_shipped()
        self._read = Position()
        self._suspect: Position | None = None
        self._lock_fd = -1
        self._pending: DrainBatch | None = None
        self._shared: dict[tuple[int, int], SharedRow] = {}
        sequences = sequences_in(folder)
        if sequences:
            self._read = Position(sequences[0], 0)

    def worker_is_dead(self) -> bool:
        """Whether the worker's lock can be had; it is kept from then on."""
        if self._lock_fd >= 0:
            return True
        try:
            lock_fd = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the folder is gone
            return False
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_fd)
            return False
        self._lock_fd = lock_fd
        self._give_back()
        return True

    def next_batch(self, max_events: int) -> DrainBatch:
        """At most `max_events` ended events that were not acknowledged yet, in order. No events: all there is was
        read. The same batch again until it is acknowledged.
        """
        if self._pending is not None:
            return self._pending
        events: list[UsageEvent] = []
        while len(events) < max_events:
            progressed = False
            for piece in self._read_chunk():
                progressed = True
                self._read = Position(self._read.sequence, piece.offset + piece.length)
                self._take(piece, events)
                if len(events) >= max_events:
                    break
            if not progressed and not self._next_segment():
                break
        self._pending = DrainBatch(tuple(events), self._read)
        return self._pending

    def acknowledge(self, batch: DrainBatch) -> None:
        """Everything up to the batch's end has arrived: remembers it and deletes the segments that are done with."""
        self._pending = None
        if batch.events or batch.upto.sequence > self._shipped.sequence:
            self._shipped = max(batch.upto, self._shipped)
            self._save_shipped()
        first_needed = min((entry.sequence for entry in self._open.values()), default=self._shipped.sequence)
        for sequence in sequences_in(self.folder):
            if sequence >= min(first_needed, self._shipped.sequence):
                break
            (self.folder / segment_name(sequence)).unlink(missing_ok=True)

    def settle(self, max_events: int) -> tuple[UsageEvent, ...]:
        """What a dead worker left open, at its last mark, at most `max_events`. `settled` takes them off."""
        events: list[UsageEvent] = []
        for request_id, entry in list(self._open.items()):
            if len(events) >= max_events:
                break
            event = self._opened_event(request_id, entry)
            if event is None:  # the disk lost it since it was read
                self.corrupt_pieces += 1
                _log.error("spool_open_record_lost", folder=str(self.folder), request_id=request_id)
                del self._open[request_id]
                continue
            events.append(settled_at_mark(event, entry.mark))
        return tuple(events)

    def settled(self, events: tuple[UsageEvent, ...]) -> None:
        """These have arrived."""
        for event in events:
            self._open.pop(event.id, None)

    def remove(self) -> None:
        """Deletes the folder of a dead worker, of which everything has arrived."""
        # Segments first: a folder that is left half deleted never has events without the lock that guards them.
        for sequence in sequences_in(self.folder):
            (self.folder / segment_name(sequence)).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Lets go of the lock."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _give_back(self) -> None:
        """Frees what a dead worker allocated and did not use, which may be long before its events can be sent."""
        with contextlib.suppress(OSError):
            (self.folder / SPARE_NAME).unlink(missing_ok=True)
            for sequence in sequences_in(self.folder)[-1:]:
                path = self.folder / segment_name(sequence)
                end = size = path.stat().st_size
                while end > 0:
                    start = max(0, end - _READ_BYTES)
                    written = self._bytes_at(sequence, start, end - start).rstrip(b"\0")
                    if written:
                        end = start + len(written)
                        break
                    end = start
                if end < size:
                    os.truncate(path, end)

    def _take(self, piece: Piece, events: list[UsageEvent]) -> None:
        match piece.record:
            case OpenRecord(event):
                self._open[event.id] = _Open(self._read.sequence, piece.offset, piece.length)
            case MarkRecord() as mark:
                entry = self._open.get(mark.id)
                if entry is not None:
                    entry.mark = mark
            case EndRecord(event):
                self._open.pop(event.id, None)
                if self._read > self._shipped:
                    events.append(event)

    def _read_chunk(self) -> Iterator[Piece]:
        """The pieces from the present position on; none where nothing more can be read yet."""
        sequence, start = self._read.sequence, self._read.offset
        is_final = self._is_final(sequence)  # before reading: what is read afterwards is then all there will be
        if not is_final and is_unwritten(self._bytes_at(sequence, start, HEADER_BYTES)):
            return
        near_start = max(0, start - MAX_BACK_BYTES)
        near = self._bytes_at(sequence, near_start, start - near_start + _READ_BYTES)
        data = near[start - near_start :]
        end = 0
        for piece in read_frames(data, partial(self._shared_at, sequence, near, near_start)):
            here = Position(sequence, start + piece.offset)
            if piece.record is None:
                if not is_final and here != self._suspect:
                    # Read while it was written, perhaps: what is not whole when it is read again is damaged.
                    self._suspect = here
                    return
                self._report(here, piece.length)
            end = piece.offset + piece.length
            yield Piece(here.offset, piece.length, piece.record)
        if is_final:
            yield from self._rest(Position(sequence, start + end), data[end:], is_at_end=len(data) < _READ_BYTES)

    def _rest(self, here: Position, rest: bytes, *, is_at_end: bool) -> Iterator[Piece]:
        """What no frame follows in a chunk of a segment that nobody writes any more: torn, or never used."""
        is_empty = not rest.strip(b"\0")
        # The head of a frame that goes on in the next chunk may stand at its end.
        length = len(rest) if is_at_end or is_empty else len(rest) - MAX_FRAME_BYTES
        if length > 0:
            if not is_empty and not is_unwritten(rest):  # a record without its header: its writer was killed over it
                self._report(here, length)
            yield Piece(here.offset, length, None)

    def _is_final(self, sequence: int) -> bool:
        """Whether nothing is appended to this segment any more."""
        return self._lock_fd >= 0 or any(other > sequence for other in sequences_in(self.folder))

    def _next_segment(self) -> bool:
        """Moves on to the next segment, if there is one and this one is read to its end."""
        following = [other for other in sequences_in(self.folder) if other > self._read.sequence]
        if not following or self._bytes_at(self._read.sequence, self._read.offset, 1):
            return False
        self._read = Position(following[0], 0)
        return True

    def _opened_event(self, request_id: str, entry: _Open) -> UsageEvent | None:
        data = self._bytes_at(entry.sequence, entry.offset, entry.length)
        piece = frame_at(data, 0, partial(self._shared_at, entry.sequence, data, entry.offset))
        record = None if piece is None else piece.record
        return record.event if isinstance(record, OpenRecord) and record.event.id == request_id else None

    def _shared_at(self, sequence: int, near: bytes, near_start: int, offset: int) -> SharedRow | None:
        """What the record at this place shares: looked up once for those that follow it.

        `near`: what was read of the segment, from `near_start` on. To open the file for each would cost more than all
        the rest where many keys take turns.
        """
        place = sequence, offset
        found = self._shared.get(place)
        if found is None:
            if offset >= near_start:
                found = shared_at(near, offset - near_start)
            if found is None:
                found = shared_at(self._bytes_at(sequence, offset, MAX_FRAME_BYTES), 0)
            if found is None:  # not remembered: it may have been read while it was written
                return None
            if len(self._shared) >= _MAX_SHARED:
                self._shared.clear()
            self._shared[place] = found
        return found

    def _bytes_at(self, sequence: int, offset: int, size: int) -> bytes:
        try:
            with (self.folder / segment_name(sequence)).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            return b""

    def _report(self, here: Position, length: int) -> None:
        if here < self._shipped:  # reported before the restart
            return
        self.corrupt_pieces += 1
        _log.error("spool_corrupt", folder=str(self.folder), sequence=here.sequence, offset=here.offset, length=length)

    def _load_shipped(self) -> Position:
        try:
            return msgspec.json.decode((self.folder / SHIPPED_NAME).read_bytes(), type=Position)
        except (OSError, ValueError):
            return Position()

    def _save_shipped(self) -> None:
        # Not synced: losing it means sending again. A full disk means the same.
        with contextlib.suppress(OSError):
            temporary = self.folder / f"{SHIPPED_NAME}.new"
            temporary.write_bytes(msgspec.json.encode(self._shipped))
            temporary.replace(self.folder / SHIPPED_NAME)
