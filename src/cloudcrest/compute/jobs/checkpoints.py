"""When running jobs last wrote a checkpoint: the one that is stopped for another is the one that loses least."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from cloudcrest.compute.api import Placer
from cloudcrest.compute.jobs.api import JobDocument
from cloudcrest.kernel.clock import Clock

LOOK_SECONDS = 10.0
_MAX_NAMES = 1_000


class CheckpointWatch:
    """Tells `placer` of those of the jobs that `keeping` gives, below `folder`. `source`: as which they have places."""

    def __init__(
        self,
        placer: Placer,
        source: str,
        folder: Path,
        keeping: Callable[[], Iterable[JobDocument]],
        *,
        clock: Clock,
    ) -> None:
        self._placer = placer
        self._source = source
        self._folder = folder
        self._keeping = keeping
        self._clock = clock

    async def run(self) -> NoReturn:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look at each of them."""
        for job in [*self._keeping()]:
            at = await asyncio.to_thread(written_at, self._folder / job.project_id / job.id)
            if at is not None:
                # A file's time is the job's to set.
                self._placer.saved(self._source, job.id, min(at, self._clock.unix_seconds()))


def written_at(folder: Path) -> float | None:
    """When a file in it was last written (Unix seconds), as far as a thousand names tell. None: there is none.

    What is in it is the job's: links are not followed, and what cannot be read is passed over.
    """
    newest: float | None = None
    folders, looked = [os.fspath(folder)], 0
    while folders and looked < _MAX_NAMES:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as names:
            for name in names:
                looked += 1
                if looked > _MAX_NAMES:
                    break
                if name.is_dir(follow_symlinks=False):
                    folders.append(name.path)
                elif name.is_file(follow_symlinks=False):
                    newest = max(newest or 0.0, name.stat(follow_symlinks=False).st_mtime)
    return newest
