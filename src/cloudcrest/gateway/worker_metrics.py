"""The metrics of several workers on one page: a scrape reaches one of them, so each leaves its own in a file.

Each sample carries its worker as a label, not the sum: a worker that starts again counts from zero, which Prometheus
understands of one series but not of a sum.
"""

import os
from collections.abc import Mapping
from pathlib import Path

_SUFFIX = ".prom"
_TYPE = "# TYPE "


class WorkerMetrics:
    """The folder where the workers of a machine leave their pages. `name`: this worker's."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._published = b""

    def publish(self, page: bytes) -> None:
        """Leaves this worker's page for the others, where it has changed. Raises `OSError`."""
        if page == self._published:
            return
        # Not synced: it is for whoever asks in the next second, not for the time after a power cut.
        path = self._folder / f".{self._name}"
        path.write_bytes(page)
        os.replace(path, self._folder / f"{self._name}{_SUFFIX}")
        self._published = page

    def gather(self, page: bytes) -> bytes:
        """This worker's page as it is now, with what the others left last."""
        pages = {self._name: page}
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stem != self._name:
                pages[path.stem] = path.read_bytes()
        return merge(pages)


def merge(pages: Mapping[str, bytes]) -> bytes:
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


def _labelled(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
