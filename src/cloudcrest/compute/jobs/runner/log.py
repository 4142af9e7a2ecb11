"""A command's output, kept in segments on disk: bounded, and read from any offset that is still there."""

import os
from collections.abc import Iterable
from pathlib import Path

SEGMENT_BYTES = 1024 * 1024
MAX_SEGMENTS = 64
_NAME_DIGITS = 16


def segment_name(offset: int) -> str:
    """The name of the segment that begins at `offset`; names sort as offsets do."""
    return f"{offset:0{_NAME_DIGITS}d}"


def find_segment(starts: Iterable[int], offset: int) -> int | None:
    """The segment to read `offset` from: the last that begins at or before it, else the first. None: there is none."""
    ordered = sorted(starts)
    before = [start for start in ordered if start <= offset]
    return before[-1] if before else next(iter(ordered), None)


class SegmentedLog:
    """Appends to `<folder>/<offset>` files of up to a mebibyte; past `max_segments` the oldest go.

    A disk that is full costs output, never the command: nothing raises once it is open.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, max_segments: int = MAX_SEGMENTS) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._max_segments = max_segments
        self._starts = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        last = self._starts[-1] if self._starts else 0
        self.end = last + (self._size(last) if self._starts else 0)
        self._fd = -1
        self._open_start = -1

    @property
    def begin(self) -> int:
        """The first offset that can be read."""
        return self._starts[0] if self._starts else self.end

    def write(self, chunk: bytes) -> None:
        """Appends."""
        while chunk:
            try:
                room = self._room()
                written = os.write(self._fd, chunk[:room])
            except OSError:
                return
            self.end += written
            chunk = chunk[written:]

    def read(self, offset: int, most_bytes: int) -> tuple[int, bytes]:
        """What is there from `offset`, or from the first offset after it that is: where that is, and its bytes."""
        start = find_segment(self._starts, offset)
        if start is None or offset >= self.end:
            return self.end, b""
        begin = max(offset, start)
        try:
            with (self._folder / segment_name(start)).open("rb") as file:
                file.seek(begin - start)
                return begin, file.read(most_bytes)
        except OSError:
            return begin, b""

    def close(self) -> None:
        """Closes the file; reading goes on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._open_start = -1

    def _room(self) -> int:
        """How much goes into the present segment; begins another where it is full."""
        if self._open_start >= 0 and self.end - self._open_start < self._segment_bytes:
            return self._segment_bytes - (self.end - self._open_start)
        if self._open_start < 0 and self._starts and self.end - self._starts[-1] < self._segment_bytes:
            self._open(self._starts[-1])
            return self._segment_bytes - (self.end - self._open_start)
        self._open(self.end)
        self._starts.append(self.end)
        while len(self._starts) > self._max_segments:
            (self._folder / segment_name(self._starts.pop(0))).unlink(missing_ok=True)
        return self._segment_bytes

    def _open(self, start: int) -> None:
        path = self._folder / segment_name(start)
        fresh = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd, self._open_start = fresh, start

    def _size(self, start: int) -> int:
        return (self._folder / segment_name(start)).stat().st_size
