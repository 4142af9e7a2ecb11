"""One request to one of a route's replicas, sent again elsewhere while nothing of its answer is out.

A replica that cannot be reached, is busy or dies costs the caller only time: the next one gets the request, at once or
when one is ready again. What has reached the client is carried on by resuming (resume_stream.py), never from here.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.route import Trip
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.sink import CROSSING_SECONDS, CallSink
from cloudcrest.gateway.snapshot import Route
from cloudcrest.kernel.errors import CloudcrestError, EngineFault, Unavailable

MAX_LOSSES = 3
"""How many engines may take a request and lose it; each resume counts as one."""
LOOK_SECONDS: Final = 0.2
MAX_LOOK_SECONDS: Final = 1.0
"""Between two looks for a replica that is ready again: at first, and at most."""
_log = structlog.get_logger(__name__)


class Timed(Protocol):
    """Something under way that may take too long."""

    def check_deadline(self, now: float) -> None: ...


class Calls:
    """What calls share: settings, the loop's clock and tasks, and the set of those under way."""

    def __init__(self, settings: GatewaySettings, monotonic: Callable[[], float]) -> None:
        self.settings = settings
        self.replica_wait_seconds = settings.replica_wait_seconds
        self.monotonic = monotonic
        self.active: set[Timed] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs something beside the event callbacks; kept from being collected."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def tick(self, now: float) -> None:
        """Fails the calls whose engine has been silent for too long."""
        for call in list(self.active):
            call.check_deadline(now)


class Call:
    """A request on its way. `pick` first (it names the replica), then `start`.

    `is_repeatable`: nothing of the answer has reached the client, so losing it does no harm; the sink ends that.
    `wants_head`: the sink reads the heads of answers, so that none is passed over.
    `losses`: how many engines have lost this request before. `waits`: for a replica that takes over from a lost one.
    """

    replica: Upstream | None = None
    is_paused: bool = False
    is_repeatable: bool = True
    wants_head: bool = False
    _connection: UpstreamConnection | None = None
    _starting: "asyncio.Task[None] | None" = None
    _trip: Trip | None = None
    _is_in_flight: bool = False
    _has_head: bool = False
    _awaits_token: bool = False
    _was_active: bool = True
    _active_at: float = 0.0
    _look_seconds: float = LOOK_SECONDS
    _picked_at: float = 0.0
    _give_up_at: float = 0.0

    def __init__(
        self,
        calls: Calls,
        route: Route,
        sink: CallSink,
        *,
        path: str,
        body: bytes,
        is_stream: bool,
        request_id: str,
        losses: int = 0,
        waits: bool = True,
    ) -> None:
        self._calls = calls
        self._route = route
        self._path = path
        self._body = body
        self._is_stream = is_stream
        self._request_id = request_id
        self._sink: CallSink | None = sink
        self._tried: list[Upstream] = []
        self._losses = losses
        self._waits = waits
        self._picked: Trip | None = None

    def pick(self) -> Upstream:
        """Chooses a replica. Raises `Unavailable` with the deployment's reason where there is none."""
        route, calls = self._route, self._calls
        now = calls.monotonic()
        if not self._picked_at:
            self._give_up_at = now + calls.replica_wait_seconds
        self._picked_at = now
        trip = route.balancer.pick(self._body, now, self._tried)
        if trip is None:
            raise no_replica(route)
        self._picked = trip
        self.replica = trip.replica
        return trip.replica

    def start(self) -> None:
        """Sends the request to the picked replica."""
        trip = self._trip = self._picked
        if trip is None:
            raise ValueError("pick a replica first")
        replica = trip.replica
        connection = replica.take()
        if connection is not None:
            self._send(connection)
        else:
            self._starting = self._calls.spawn(self._dial(replica))
        # What nobody waits for comes after the request is out.
        trip.begin(self._picked_at, is_stream=self._is_stream)
        self._calls.active.add(self)
        self._tried.append(replica)
        replica.in_flight += 1
        self._is_in_flight = self._was_active = True

    def start_or_wait(self) -> None:
        """Picks and starts, now or as soon as there is a replica."""
        try:
            self.pick()
        except Unavailable:
            self._starting = self._calls.spawn(self._wait())
        else:
            self.start()

    @property
    def is_sent(self) -> bool:
        """Whether an engine has the request and has not finished it."""
        return self._connection is not None

    def abort(self) -> None:
        """Gives up: the connection is dropped, at which the engine stops."""
        self._sink = None
        self._release()
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def move(self) -> None:
        """Sends the request to another replica, where there is one that it was not sent to; else it stays."""
        before, sink = self.replica, self._sink
        try:
            self.pick()
        except Unavailable:
            self.replica = before
            return
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if sink is not None:
            self._go_from(before, sink)

    def pause(self) -> None:
        self.is_paused = True
        if self._connection is not None:
            self._connection.pause()

    def pass_chunks(self, passage: Passage) -> None:
        """Offers every read that begins a chunk to it, framed as it came; the sink gets what it does not take."""
        if self._connection is not None:
            self._connection.passage = passage

    def resume(self) -> None:
        self.is_paused = False
        self._was_active = True
        if self._connection is not None:
            self._connection.resume()

    def check_deadline(self, now: float) -> None:
        """Fails where nothing has come from the engine for `answer_timeout_seconds`."""
        sink, replica = self._sink, self.replica
        if sink is not None:
            sink.call_tick()
            if replica is not None and now >= replica.leave_at - self._calls.settings.leave_ahead_seconds:
                if self._route.replicas:
                    sink.call_leaving()
                return  # it ends soon, one way or the other
        connection = self._connection
        if self._was_active or self.is_paused or (connection is not None and connection.has_spoken):
            self._was_active = False
            if connection is not None:
                connection.has_spoken = False
            self._active_at = now
        elif now - self._active_at > self._calls.settings.answer_timeout_seconds:
            self.abort()
            if sink is not None:
                sink.call_failed(EngineFault("the model's engine has stopped answering", code="engine_timeout"))

    # the connection's side

    def answer_head(self, status: int, head: bytes) -> None:
        if status == 503 and self._start_over():
            return
        self._has_head = True
        # Only a stream's first bytes say when the prompt was read.
        self._awaits_token = status == 200 and b"text/event-stream" in head
        if self._sink is not None:
            self._sink.call_head(status, head)

    def answer_data(self, data: bytes) -> None:
        if self._awaits_token:
            self._awaits_token = False
            if self._trip is not None:
                self._trip.first_token(self._calls.monotonic())
        if self._sink is not None:
            self._sink.call_data(data)

    def answer_end(self) -> None:
        self._connection = None
        self._release()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.call_end()

    def answer_whole(self, body: bytes) -> None:
        self._connection = None
        self._release()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.call_answer(body)

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:
        self._connection = None
        replica, now, settings = self.replica, self._calls.monotonic(), self._calls.settings
        if replica is not None and was_reused and not self._has_head and now - self._picked_at < CROSSING_SECONDS:
            # Not the replica's failing, if it can be reached: it closed an idle connection just as we wrote to it.
            self._starting = self._calls.spawn(self._dial(replica, had_taken_it=True))
            return
        if replica is not None:
            _log.warning("replica_lost", replica=replica.name, reason=reason, request=self._request_id)
            replica.paused_until_seconds = now + settings.replica_pause_seconds
        if self._trip is not None:
            self._trip.end(now, is_failure=True)
        self._losses += 1
        self._give_up_at = now + self._calls.replica_wait_seconds
        if self._losses > MAX_LOSSES or not self._start_over():
            self._fail(EngineFault(f"the model's engine failed: {reason}"))

    def upstream_paused(self, is_paused: bool) -> None:
        """The request is written whole, so there is nothing to hold back."""

    # inside

    def _send(self, connection: UpstreamConnection) -> None:
        replica = self.replica
        if replica is None:
            return
        self._connection = connection
        if self.is_paused:
            connection.pause()
        connection.send(
            b"%b%b\r\ncontent-length: %d\r\n\r\n%b"
            % (replica.request_start(self._path), self._request_id.encode(), len(self._body), self._body),
            self,
            whole_sink=None if self.wants_head else self,
        )

    async def _dial(self, replica: Upstream, *, had_taken_it: bool = False) -> None:
        """Connects and sends. `had_taken_it`: if it cannot be reached, it was lost with the request."""
        settings = self._calls.settings
        try:
            connection = await replica.dial(settings.connect_timeout_seconds, settings.max_idle_upstream_connections)
        except OSError as error:  # TimeoutError is one
            if self._losses == 0:  # later ones are looks for a replica that comes back
                _log.warning("replica_unreachable", replica=replica.name, error=str(error))
            self._starting = None
            now = self._calls.monotonic()
            replica.paused_until_seconds = now + settings.replica_pause_seconds
            if self._trip is not None:
                self._trip.end(now, is_failure=True)
            if had_taken_it:
                self._losses += 1
                self._give_up_at = now + self._calls.replica_wait_seconds
            if self._losses > MAX_LOSSES or not self._start_over():
                self._fail(
                    Unavailable(
                        "the model's replica cannot be reached", code="model_unavailable", retry_after_seconds=2
                    )
                )
            return
        self._starting = None
        if self._sink is None:
            connection.close()
        else:
            self._send(connection)

    def _start_over(self) -> bool:
        """Sends the request to another replica, each once; False where none is left to try in the time there is.

        A request that an engine had taken is worth waiting for: a replica may be ready again in a moment.
        """
        sink = self._sink
        if sink is None or not self.is_repeatable or self._calls.monotonic() >= self._give_up_at:
            return False
        before = self.replica
        try:
            self.pick()
        except Unavailable:
            self.replica = before
            if self._losses == 0 or not self._waits:
                return False
            self._starting = self._calls.spawn(self._wait())
        self._go_from(before, sink)
        return True

    def _go_from(self, before: Upstream | None, sink: CallSink) -> None:
        self._leave(before)
        if self._has_head:
            self._has_head = False
            sink.call_restarted()
        if self._starting is None:
            self.start()

    async def _wait(self) -> None:
        """Looks again in a moment, at every replica there is then."""
        await asyncio.sleep(self._look_seconds)
        self._look_seconds = min(2 * self._look_seconds, MAX_LOOK_SECONDS)
        self._starting = None
        self._tried.clear()
        if not self._start_over():
            self._fail(no_replica(self._route))

    def _leave(self, replica: Upstream | None) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if replica is not None and self._is_in_flight:
            replica.in_flight -= 1
        self._is_in_flight = False
        if self._trip is not None:
            self._trip.end(self._calls.monotonic())
            self._trip = None

    def _fail(self, error: CloudcrestError) -> None:
        self._release()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.call_failed(error)

    def _release(self) -> None:
        self._calls.active.discard(self)
        if self._is_in_flight and self.replica is not None:
            self.replica.in_flight -= 1
        self._is_in_flight = False
        if self._trip is not None:
            self._trip.end(self._calls.monotonic())
            self._trip = None


def no_replica(route: Route) -> Unavailable:
    """The error for a route that has no replica to send anything to."""
    reason = route.document.unavailable_reason or "no replica of it is ready"
    return Unavailable(
        f"the model '{route.document.model_name}' cannot answer now: {reason}",
        code="model_unavailable",
        retry_after_seconds=5,
    )
