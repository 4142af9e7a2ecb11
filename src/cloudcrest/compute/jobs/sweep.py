"""Removes what ended jobs have left, once its time is over."""

import asyncio
import shutil
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path

import structlog

from cloudcrest.compute.jobs.store import JobStore

_log = structlog.get_logger(__name__)


class Sweeper:
    """Of a region: logs and outputs in `store`, checkpoints below `checkpoints`. `on_removed`: outputs are gone."""

    def __init__(self, store: JobStore, checkpoints: Path, on_removed: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_removed = on_removed
        self._checkpoints = checkpoints

    async def sweep(self, known: AbstractSet[str], before: float) -> None:
        """Removes what is of jobs that ended before (Unix seconds) and are not `known` any more."""
        try:
            removed = await self._store.sweep(before)
        finally:
            self._on_removed()
        folders = await asyncio.to_thread(self._sweep_checkpoints, known, before)
        if removed or folders:
            _log.info("jobs_swept", jobs=removed, checkpoint_folders=folders)

    def _sweep_checkpoints(self, known: AbstractSet[str], before: float) -> int:
        removed = 0
        for folder in self._checkpoints.glob("*/*"):
            if folder.name not in known and folder.lstat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed
