"""Weights that a region is to hold whether or not a deployment needs them: fetched one after another, tried again."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from cloudcrest.catalog.api import ArtifactFormat, ModelDocument, ModelPullDocument, PullProgress
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.serving.reconcile import backoff_seconds
from cloudcrest.serving.settings import ServingSettings


class Artifacts(Protocol):
    """What serving asks of the artifact store."""

    async def fetch(
        self, model: ModelDocument, artifact_format: ArtifactFormat, on_progress: Callable[[PullProgress], None]
    ) -> Path:
        """The entry file, fetched and verified where it is not here yet. Raises a `CloudcrestError` saying why not."""
        ...


class Pulls:
    """The wanted pulls and how far each is. `on_change` is called when a progress changes."""

    def __init__(
        self, artifacts: Artifacts, clock: Clock, settings: ServingSettings, on_change: Callable[[], None]
    ) -> None:
        self._artifacts = artifacts
        self._clock = clock
        self._settings = settings
        self._on_change = on_change
        self._wanted: dict[str, ModelPullDocument] = {}
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._done: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.progress: dict[str, PullProgress] = {}

    def want(self, pulls: Iterable[ModelPullDocument]) -> None:
        """Replaces what is wanted; a fetch under way of what no longer is, is given up."""
        wanted = {pull.id: pull for pull in pulls}
        for pull_id in [pull_id for pull_id, pull in self._wanted.items() if wanted.get(pull_id) != pull]:
            if task := self._tasks.pop(pull_id, None):
                task.cancel()
            self._done.discard(pull_id)
            for kept in (self._failures, self._retry_at, self.progress):
                kept.pop(pull_id, None)
        self._wanted = wanted

    def step(self) -> None:
        """Starts what is due. One fetch at a time: two would halve each other."""
        self._tasks = {pull_id: task for pull_id, task in self._tasks.items() if not task.done()}
        for pull_id, pull in self._wanted.items():
            if pull_id in self._done or pull_id in self._tasks:
                continue
            if self._tasks:
                self.progress.setdefault(pull_id, PullProgress(phase="waiting"))
            elif self._retry_at.get(pull_id, 0.0) <= self._clock.monotonic():
                self._tasks[pull_id] = asyncio.create_task(self._pull(pull))

    async def settle(self) -> bool:
        """Waits for the fetches under way. False: there are none."""
        tasks = self._running()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return bool(tasks)

    async def close(self) -> None:
        """Gives up every fetch under way."""
        tasks = self._running()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _running(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks.values() if not task.done()]

    async def _pull(self, pull: ModelPullDocument) -> None:
        def report(progress: PullProgress) -> None:
            self.progress[pull.id] = progress
            self._on_change()

        try:
            if not pull.model.artifacts:
                report(PullProgress(phase="failed", reason=f"model '{pull.model.id}' has no weights to fetch"))
                self._done.add(pull.id)
                return
            await self._artifacts.fetch(pull.model, pull.model.artifacts[0].format, report)
        except CloudcrestError as error:
            failures = self._failures[pull.id] = self._failures.get(pull.id, 0) + 1
            self._retry_at[pull.id] = self._clock.monotonic() + backoff_seconds(failures, self._settings)
            report(PullProgress(phase="failed", reason=str(error)))
        else:
            self._done.add(pull.id)
            report(PullProgress(phase="ready"))
