"""The answer to a request that one task works at, and that goes out in one small piece."""

import asyncio

from cloudcrest.gateway.deadline import deadline_passed
from cloudcrest.gateway.http1 import JSON
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.kernel.errors import CloudcrestError


class SmallAnswer:
    """A responder whose `task` calls `answer` or `refuse`. It ends the task where nobody waits any more."""

    task: "asyncio.Task[None] | None" = None

    def __init__(self, connection: Connection, request: Request, metrics: Metrics) -> None:
        self.request = request
        self._connection = connection
        self._metrics = metrics
        self._is_told = False

    def answer(self, body: bytes) -> None:
        """Answers with this JSON."""
        if not self._is_told:
            self._is_told = True
            self._connection.respond(200, JSON, body)

    def refuse(self, error: CloudcrestError) -> None:
        """Answers with an error."""
        if not self._is_told:
            self._is_told = True
            self._metrics.responses[error.status] += 1
            self._connection.respond_error(error)

    def client_gone(self) -> None:
        self._is_told = True
        self.stop()

    def deadline_passed(self) -> None:
        self.refuse(deadline_passed(self.request))
        self.stop()

    def client_paused(self) -> None:
        """An answer is a few kilobytes."""

    def client_resumed(self) -> None: ...

    def body_data(self, data: bytes) -> None:
        """These requests are gathered before they get here."""

    def body_end(self) -> None: ...

    def stop(self) -> None:
        """Ends the work."""
        if self.task is not None:
            self.task.cancel()
