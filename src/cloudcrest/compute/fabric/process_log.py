"""A process's output: a file of bounded size with one predecessor, and its end in memory."""

import os
from pathlib import Path

MAX_FILE_BYTES = 8 * 1024 * 1024
TAIL_BYTES = 4096
MAX_FILES = 200


class ProcessLog:
    """Appends to `<folder>/<name>.log`; past `max_file_bytes` that becomes `<name>.log.1` and a new one starts.

    A disk that is full costs the output, never the process: nothing here raises once it is open.
    """

    def __init__(self, folder: Path, name: str, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = folder / f"{name}.log"
        self._max_file_bytes = max_file_bytes
        self._tail = bytearray()
        self._fd = self._open()
        self._size_bytes = os.fstat(self._fd).st_size

    def write(self, chunk: bytes) -> None:
        """Appends a chunk."""
        self._tail += chunk
        del self._tail[:-TAIL_BYTES]
        try:
            if self._size_bytes + len(chunk) > self._max_file_bytes:
                self._rotate()
            self._size_bytes += os.write(self._fd, chunk)
        except OSError:
            return

    def tail(self) -> str:
        """The end of the output, whole lines where there are several."""
        text = bytes(self._tail)
        if len(text) == TAIL_BYTES and b"\n" in text:
            text = text.split(b"\n", 1)[1]
        return text.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Closes the file; the tail stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        os.replace(self.path, self.path.with_suffix(".log.1"))
        fresh = self._open()
        os.close(self._fd)
        self._fd, self._size_bytes = fresh, 0


def prune_logs(folder: Path, *, keep: int = MAX_FILES) -> None:
    """Removes the oldest logs so that at most `keep` stay of those whose names are ids (`rep_…`): others are reused."""
    files = sorted(folder.glob("*_*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[keep:]:
        path.unlink(missing_ok=True)
