"""What a relay is made of, and the way an event stream goes out to its client."""

from typing import NamedTuple

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.counting import Counting
from cloudcrest.gateway.http1 import EVENT_STREAM, LAST_CHUNK, chunk
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.gateway.snapshot import Route
from cloudcrest.gateway.validate import Parsed
from cloudcrest.kernel.units import KIB

MAX_ENGINE_ERROR_BYTES = 64 * KIB
STREAM_HEAD = b"content-type: " + EVENT_STREAM + b"\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"


class Parts(NamedTuple):
    """What a relay is made of. `body` is what the engine is sent."""

    calls: Calls
    counting: Counting
    connection: Connection
    request: Request
    route: Route
    parsed: Parsed
    account: Account
    body: bytes

    def begin_stream(self) -> None:
        """Writes the head of an event stream."""
        framing = b"" if self.request.is_http_1_0 else b"transfer-encoding: chunked\r\n"
        self.connection.start_answer(200, STREAM_HEAD + framing)

    def write(self, events: bytes) -> None:
        """Writes events, not empty, framed as this client has it."""
        self.connection.write(events if self.request.is_http_1_0 else chunk(events))

    def finish_stream(self) -> None:
        """The stream is whole."""
        if not self.request.is_http_1_0:
            self.connection.write(LAST_CHUNK)
        self.connection.finish(close=self.request.is_http_1_0)
