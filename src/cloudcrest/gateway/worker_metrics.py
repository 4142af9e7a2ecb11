"""The metrics of several workers on one page: a scrape reaches one of them, so each leaves its own in a file.

Each sample carries its worker as a label, not the sum: a worker that starts again counts from zero, which Prometheus
understands of one series but not of a sum.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

_TYPE = "# TYPE "


class WorkerMetrics:
    """The folder where the workers of a machine leave their pages, as number `worker` (from 0) of `workers` uses it."""

    def __init__(self, folder: Path, *, worker: int, workers: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Each is opened by its name: a folder that is listed while a file in it is replaced may not show the file.
        self._paths = [folder / f"{number}.prom" for number in range(workers)]
        self._worker = worker
        self._published = b""

    def publish(self, page: bytes) -> None:
        """Leaves this worker's page for the others, where it has changed. Raises `OSError`."""
        if page == self._published:
            return
        path = self._paths[self._worker]
        # Not synced: it is for whoever asks in the next second, not for the time after a power cut.
        temporary = path.with_suffix(".new")
        temporary.write_bytes(page)
        os.replace(temporary, path)
        self._published = page

    def gather(self, page: bytes) -> bytes:
        """This worker's page as it is now, with what the others left last."""
        pages = {self._worker: page}
        for worker, path in enumerate(self._paths):
            if worker != self._worker:
                with contextlib.suppress(FileNotFoundError):  # it has only just started
                    pages[worker] = path.read_bytes()
        return merge(pages)


def merge(pages: Mapping[int, bytes]) -> bytes:
    """Pages in Prometheus' text format as one, by worker: a family's samples stand together, as the format wants it."""
    families: dict[str, list[str]] = {}
    for worker, page in sorted(pages.items()):
        samples: list[str] = []
        for line in page.decode().splitlines():
            if line.startswith(_TYPE):
                samples = families.setdefault(line, [])
            elif line:
                samples.append(_labelled(line, worker))
    return "".join(f"{line}\n" for family, samples in families.items() for line in (family, *samples)).encode()


def _labelled(sample: str, worker: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
