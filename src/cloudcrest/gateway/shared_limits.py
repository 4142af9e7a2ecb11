"""Limits that hold over all gateway workers of a machine: what is used of each is in one table in shared memory.

`up` makes the table's file for each of its runs, and every worker maps it. An admission locks it, takes over what it
says of its scopes, decides as a lone worker does (`admit.py`), and writes back what was taken: so the workers together
never exceed a limit, and nobody is refused while there is room. The lock is the kernel's (`flock`), which a worker that
is killed lets go of. What a request gives back when it ends goes without it, into columns that its worker alone writes,
and is counted, with that of all others, at the next admission.

Each worker also holds a lock of its own, on `<table>.<worker>`, for as long as it lives. Before a request is refused,
the columns of those that are dead are cleared: what a killed worker had running holds up nobody.

    row      both buckets, when they were so, the corrections that are in them already, and the growth; then, of each
             worker, the requests that run and the sum of its corrections in tokens; all of them doubles

A scope has its row in the set of 16 that the digest of its name selects. A row whose buckets are full and in which
nothing runs says the same as none, so another scope may take it.
"""

import fcntl
import mmap
import os
import struct
import time
from array import array
from hashlib import blake2b
from math import inf
from pathlib import Path

from cloudcrest.gateway.admit import Grant, Scope, take
from cloudcrest.gateway.growth import FORGOTTEN_AFTER_SECONDS
from cloudcrest.kernel.errors import LimitExceeded, SetupError, Unavailable

MAX_WORKERS = 16
SETS = 2048
ROWS_PER_SET = 16
LOCK_PATIENCE_SECONDS = 0.25
_LOCK_RETRY_SECONDS = 0.00005
_DIGEST_BYTES = 16
_SET_BYTES = ROWS_PER_SET * _DIGEST_BYTES
_NOBODY = bytes(_DIGEST_BYTES)
_COMMON = struct.Struct("10d")
"""Requests a minute (inf: unlimited) and their level; the same of tokens; when it was that; the corrections counted in;
the growth."""
_COMMON_DOUBLES = 10


def create_table(path: Path, workers: int) -> None:
    """Makes an empty table for so many workers, before any of them starts. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.truncate(_table_bytes(workers))


class SharedLimits:
    """The table as worker number `worker` (from 0) of `workers` uses it.

    What the one before it under its number left running is over: its column is cleared. Raises `SetupError` where
    `path` is no such table.
    """

    def __init__(self, path: Path, *, worker: int, workers: int) -> None:
        self._row = struct.Struct(f"{_COMMON_DOUBLES + 2 * workers}d")
        self._running = slice(_COMMON_DOUBLES, _COMMON_DOUBLES + workers)
        self._corrections = slice(_COMMON_DOUBLES + workers, _COMMON_DOUBLES + 2 * workers)
        self._running_index = _COMMON_DOUBLES + worker
        self._corrections_index = _COMMON_DOUBLES + workers + worker
        self._row_doubles = _COMMON_DOUBLES + 2 * workers
        self._is_stuck = False
        self._path = path
        self._worker = worker
        self._life_fds: dict[int, int] = {}
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError(f"the table of limits {path} cannot be opened: {error.strerror}") from error
        size_bytes = os.fstat(self._fd).st_size
        if not worker < workers or size_bytes != _table_bytes(workers):
            os.close(self._fd)
            raise SetupError(f"{path} is no table of limits for {workers} workers", hint="start the cloud again")
        self._map = mmap.mmap(self._fd, size_bytes)
        self._doubles = memoryview(self._map).cast("d")
        fcntl.flock(self._life_fd(worker), fcntl.LOCK_EX)  # waits only for one that is looking whether we are dead
        self._clear(worker)

    def close(self) -> None:
        """Lets go of the table."""
        for fd in self._life_fds.values():
            os.close(fd)
        self._doubles.release()
        self._map.close()
        os.close(self._fd)

    def admit(self, scopes: list[Scope], tokens: int, now: float) -> Grant:
        """As `admit.admit`, over all workers. `now`: seconds of the machine's monotonic clock.

        Raises `LimitExceeded`, and `Unavailable` where the table is full, or locked by a worker that stands still.
        """
        if not scopes:
            return Grant(scopes, tokens)
        self._lock()
        try:
            places = [self._read(scope, now) for scope in scopes]
            try:
                take(scopes, tokens, now)
            except LimitExceeded:
                if not self._clear_the_dead(places):
                    raise
                places = [self._read(scope, now) for scope in scopes]
                take(scopes, tokens, now)
            for scope, place in zip(scopes, places, strict=True):
                self._write(scope, place)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return _SharedGrant(self, scopes, places, tokens)

    def give_back(self, places: list[int], tokens: int) -> None:
        """A request is over: corrects its estimate by `tokens` and frees its place in each of these rows."""
        doubles = self._doubles
        for place in places:
            if tokens:
                doubles[place + self._corrections_index] += tokens
            # Last: when nothing runs in it, the row may become another scope's.
            doubles[place + self._running_index] -= 1

    def _clear_the_dead(self, places: list[int]) -> bool:
        """Clears the columns of workers that run something in these rows and are dead; whether there was one."""
        rows = [self._row.unpack_from(self._map, place * 8)[self._running] for place in places]
        busy = [worker for worker, running in enumerate(zip(*rows, strict=True)) if any(running)]
        dead = [worker for worker in busy if worker != self._worker and self._clear_if_dead(worker)]
        return bool(dead)

    def _clear_if_dead(self, worker: int) -> bool:
        try:
            fd = self._life_fd(worker)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it lives, or we cannot know
            return False
        try:
            self._clear(worker)  # its successor waits for our lock, and so writes nothing yet
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        return True

    def _clear(self, worker: int) -> None:
        """Says that nothing of this worker's runs."""
        column = self._doubles[SETS * _SET_BYTES // 8 + self._running.start + worker :: self._row.size // 8]
        column[:] = memoryview(array("d", bytes(column.nbytes)))
        column.release()

    def _life_fd(self, worker: int) -> int:
        """The file that this worker holds locked while it lives. Raises `OSError`."""
        fd = self._life_fds.get(worker)
        if fd is None:
            path = self._path.with_name(f"{self._path.name}.{worker}")
            fd = self._life_fds[worker] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return fd

    def _lock(self) -> None:
        """Waits no longer than a worker holds the lock that lives and is not stopped, and only once for one that is."""
        deadline = 0.0
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + LOCK_PATIENCE_SECONDS
                if self._is_stuck or now > deadline:
                    self._is_stuck = True
                    raise Unavailable(
                        "limits cannot be checked now", code="overloaded", retry_after_seconds=1
                    ) from None
                time.sleep(_LOCK_RETRY_SECONDS)
            else:
                self._is_stuck = False
                return

    def _read(self, scope: Scope, now: float) -> int:
        """Sets the scope to what its row says; where that is, in doubles."""
        place = self._place_of(scope, now)
        row = self._row.unpack_from(self._map, place * 8)
        scope.concurrent = int(sum(row[self._running]))
        scope.corrections = corrections = sum(row[self._corrections])
        requests, tokens = scope.requests, scope.tokens
        if requests.capacity == row[0] and tokens.capacity == row[2]:
            requests.level, tokens.level, scope.updated_at_seconds = row[1], row[3], row[4]
        else:
            _follow(scope, row, now)
        if row[2] < inf:
            tokens.correct(corrections - row[5])
        if scope.growth is not None:
            scope.growth.resume((row[6], row[7], row[8], row[9]) if row[6] >= 0 else None, now)
        return place

    def _write(self, scope: Scope, place: int) -> None:
        """Writes what a scope is after an admission. In one copy: a kill leaves the row as it was, or as it is."""
        requests, tokens, growth = scope.requests, scope.tokens, scope.growth
        allowed, used, at_once, grown_at = _NO_GROWTH if growth is None else growth.state
        data = _COMMON.pack(
            requests.capacity,
            requests.level,
            tokens.capacity,
            tokens.level,
            scope.updated_at_seconds,
            scope.corrections,
            allowed,
            used,
            at_once,
            grown_at,
        )
        start = place * 8
        self._map[start : start + _COMMON.size] = data
        self._doubles[place + self._running_index] += 1

    def _place_of(self, scope: Scope, now: float) -> int:
        """Where the scope's row is, in doubles. Makes one for a scope that has none."""
        start = scope.row * _DIGEST_BYTES
        if self._map[start : start + _DIGEST_BYTES] != scope.digest:  # another's by now, or this is its first request
            scope.row = self._row_of(scope, now)
        return self._row_place(scope.row)

    def _row_of(self, scope: Scope, now: float) -> int:
        """The scope's row, looked for, or made."""
        digest = scope.digest
        if digest is None:
            digest = scope.digest = blake2b(f"{scope.kind}:{scope.id}".encode(), digest_size=_DIGEST_BYTES).digest()
        number = int.from_bytes(digest[:4], "little") % SETS
        start = number * _SET_BYTES
        names = self._map[start : start + _SET_BYTES]
        found = names.find(digest)
        if found >= 0 and found % _DIGEST_BYTES == 0:
            return number * ROWS_PER_SET + found // _DIGEST_BYTES
        for row in range(number * ROWS_PER_SET, (number + 1) * ROWS_PER_SET):
            place = self._row_place(row)
            at = row * _DIGEST_BYTES
            if self._map[at : at + _DIGEST_BYTES] == _NOBODY or self._is_idle(place, now):
                corrections = sum(self._row.unpack_from(self._map, place * 8)[self._corrections])
                data = _COMMON.pack(inf, inf, inf, inf, now, corrections, *_NO_GROWTH)
                self._map[place * 8 : place * 8 + _COMMON.size] = data
                self._map[at : at + _DIGEST_BYTES] = digest
                return row
        raise Unavailable("too many limits are in use at once", code="overloaded", retry_after_seconds=5)

    def _row_place(self, row: int) -> int:
        return SETS * _SET_BYTES // 8 + row * self._row_doubles

    def _is_idle(self, place: int, now: float) -> bool:
        """Whether the row says what no row says: nothing runs, and its buckets are full."""
        row = self._row.unpack_from(self._map, place * 8)
        passed_seconds = max(0.0, now - row[4])
        return (
            not any(row[self._running])
            and _is_full(row[0], row[1], passed_seconds)
            and _is_full(row[2], row[3] + sum(row[self._corrections]) - row[5], passed_seconds)
            and (row[6] < 0 or now - row[9] > FORGOTTEN_AFTER_SECONDS)
        )


class _SharedGrant(Grant):
    """A hold on rows of the table."""

    __slots__ = ("_places", "_table")

    def __init__(self, table: SharedLimits, scopes: list[Scope], places: list[int], tokens: int) -> None:
        super().__init__(scopes, tokens)
        self._table = table
        self._places = places

    def give_back(self, tokens: int) -> None:
        self._table.give_back(self._places, tokens)


_NO_GROWTH = (-1.0, 0.0, 0.0, 0.0)


def _follow(scope: Scope, row: tuple[float, ...], now: float) -> None:
    """Sets the buckets by a row in which a limit is another: the same share is left of the new one."""
    requests, tokens = scope.requests, scope.tokens
    requests_per_minute, tokens_per_minute = requests.capacity, tokens.capacity
    requests.resize(row[0])
    tokens.resize(row[2])
    requests.level, tokens.level, scope.updated_at_seconds = row[1], row[3], row[4]
    scope.refill(now)
    requests.resize(requests_per_minute)
    tokens.resize(tokens_per_minute)


def _is_full(per_minute: float, level: float, passed_seconds: float) -> bool:
    return per_minute == inf or level + passed_seconds * per_minute / 60 >= per_minute


def _table_bytes(workers: int) -> int:
    return SETS * (_SET_BYTES + ROWS_PER_SET * (_COMMON.size + 16 * workers))
