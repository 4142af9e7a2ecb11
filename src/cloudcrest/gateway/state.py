"""What the connections of a worker share: the application, a coarse clock, their rounds, and who they are."""

import asyncio
from time import time as unix_time
from typing import Protocol

from cloudcrest.gateway.http1 import http_date
from cloudcrest.gateway.request import Application
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.settings import GatewaySettings


class TimedConnection(Protocol):
    """A client's connection, as the worker sees it."""

    def check_deadline(self, now: float) -> None: ...

    def close_if_idle(self) -> None: ...

    def abort(self) -> None: ...


class ServerState:
    """What the connections of a worker share: the application, a coarse clock, their rounds, and who they are."""

    def __init__(
        self, settings: GatewaySettings, application: Application, now: float = 0.0, rounds: Rounds | None = None
    ) -> None:
        self.settings = settings
        self.application = application
        self.rounds = rounds or Rounds()
        self.connections: set[TimedConnection] = set()
        self.is_draining = False
        self.drained = asyncio.Event()
        self.now = now
        self.date_line = b""
        self.gathered_bytes = 0
        """Of all bodies that are gathered or wait for their turn: what clients can make this worker hold."""
        self.tick(now)

    def tick(self, now: float) -> None:
        """Called a few times a second: moves the coarse clock and ends what is overdue."""
        self.now = now
        self.date_line = b"date: " + http_date(unix_time()) + b"\r\n"
        for connection in list(self.connections):
            connection.check_deadline(now)

    def discard(self, connection: TimedConnection) -> None:
        """A connection is gone. `drained` is set when it was the last while draining."""
        self.connections.discard(connection)
        if self.is_draining and not self.connections:
            self.drained.set()

    def drain(self) -> None:
        """Idle connections close now, the others after the answer they are at."""
        self.is_draining = True
        if not self.connections:
            self.drained.set()
        for connection in list(self.connections):
            connection.close_if_idle()
