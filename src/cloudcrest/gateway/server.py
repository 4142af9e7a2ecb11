"""A gateway worker: puts the parts together, listens, follows the feed, and drains when it is told to stop."""

import asyncio
import gc
import signal
import socket
import ssl
from functools import partial
from pathlib import Path

import structlog

from cloudcrest.gateway.account import Origin
from cloudcrest.gateway.admit import admit
from cloudcrest.gateway.app import GatewayApp
from cloudcrest.gateway.budget import SECOND, Wallet
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.claims import Claims
from cloudcrest.gateway.counting import Counting
from cloudcrest.gateway.desk import Desk
from cloudcrest.gateway.inference import Inference
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.moderations import Moderations
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.record import Recorder, Spool
from cloudcrest.gateway.region_link import feed_pages, grants_exchange
from cloudcrest.gateway.request_id import RequestIds
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.shared_limits import SharedLimits
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.gateway.state import ServerState
from cloudcrest.gateway.token_count import TokenCounts
from cloudcrest.gateway.vigil import Vigil
from cloudcrest.gateway.worker_metrics import WorkerMetrics
from cloudcrest.governance.api import presidio_detector
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.feed_client import follow, load_state, save_state
from cloudcrest.infra.heap import heap_trimmer
from cloudcrest.kernel.clock import Clock, SystemClock
from cloudcrest.kernel.errors import SetupError
from cloudcrest.metering.spool import SpoolWriter

TICK_SECONDS = 0.5
TRIM_SECONDS = 30.0
"""How often what a burst took is given back to the kernel."""
COUNT_TIMEOUT_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class Gateway:
    """One worker. `start`, then `stop`; `port` is where it listens. `holder`: the name of its spool's folder, under
    which it holds grants of budgets.
    """

    def __init__(self, settings: GatewaySettings, spool: Spool, clock: Clock, holder: str = "") -> None:
        self._settings = settings
        self._clock = clock
        self._feed = load_state(settings.feed_state_path)
        rounds = Rounds(Vigil(settings.poll_seconds).round_began if settings.poll_seconds > 0 else None)
        self.snapshot = Snapshot(clock.monotonic, settings.workers, rounds=rounds)
        if settings.presidio:
            self.snapshot.policies.extra = (presidio_detector(),)
        self.snapshot.update(self._feed, set(self._feed.documents))
        self._recorder = Recorder(spool)
        self._calls = Calls(settings, clock.monotonic)
        self._counting = Counting(self._calls)
        self._metrics = Metrics()
        origin = Origin(settings.region, settings.name, self._recorder, self._metrics, clock)
        self._limits = _shared_limits(settings)
        folder = settings.metrics_folder
        self._all_metrics = (
            None if folder is None else WorkerMetrics(folder, worker=settings.worker, workers=settings.workers)
        )
        self.desk = Desk(Wallet(holder or settings.name))
        self._claims = Claims(self.desk.wallet, round(settings.request_timeout_seconds * SECOND))
        self._claims.update(self._feed, set(self._feed.documents))
        admitting = admit if self._limits is None else self._limits.admit
        inference = Inference(
            snapshot=self.snapshot,
            origin=origin,
            calls=self._calls,
            counting=self._counting,
            admit=admitting,
            claims=self._claims,
            desk=self.desk,
        )
        new_id = RequestIds().make
        self._app = GatewayApp(
            settings=settings,
            snapshot=self.snapshot,
            origin=origin,
            calls=self._calls,
            new_id=new_id,
            inference=inference,
            token_counts=TokenCounts(
                snapshot=self.snapshot,
                calls=self._calls,
                metrics=self._metrics,
                admit=admitting,
                inference=inference,
            ),
            moderations=Moderations(
                snapshot=self.snapshot,
                calls=self._calls,
                metrics=self._metrics,
                admit=admitting,
                key_of=inference.authenticate,
                serve=inference.serve,
                new_id=new_id,
            ),
        )
        self.state = ServerState(settings, self._app, clock.monotonic(), rounds)
        self._app.metrics_page = self._metrics_page
        self.waiting = inference.waiting
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_feed_saved = True
        self.port = 0

    async def start(self) -> None:
        """Listens and begins to follow. Raises `SetupError` where it cannot."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        make_connection = partial(ServerConnection, self.state)
        tls = _tls_context(settings)
        try:
            if settings.listen_fd is not None:
                listener = socket.socket(fileno=settings.listen_fd)
                listener.setblocking(False)
                self._server = await loop.create_server(make_connection, sock=listener, ssl=tls)
            else:
                self._server = await loop.create_server(
                    make_connection, settings.host, settings.port, ssl=tls, backlog=1024
                )
        except OSError as error:
            raise SetupError(
                f"the gateway cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                hint="is the port in use? choose another one",
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._tasks.append(loop.create_task(self._tick()))
        if settings.feed_url is not None:
            self._tasks.append(loop.create_task(self._follow(settings.feed_url)))
        if settings.grants_url is not None:
            exchange = grants_exchange(settings.grants_url, settings.feed_token)
            self._tasks.append(loop.create_task(self.desk.run(exchange)))
        _log.info("gateway_listening", port=self.port, documents=sum(map(len, self._feed.documents.values())))

    async def stop(self) -> None:
        """Accepts nothing more, lets what runs finish for `drain_seconds`, then ends it, counted."""
        if self._server is not None:
            self._server.close()
        self.state.drain()
        self.waiting.close()
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self.state.drained.wait()
        except TimeoutError:
            _log.warning("drain_cut_short", connections=len(self.state.connections))
        for connection in list(self.state.connections):
            connection.abort()
        await asyncio.sleep(0)
        await self._counting.finish(COUNT_TIMEOUT_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._is_feed_saved:
            await self._save()
        self._recorder.close()
        if self._limits is not None:
            self._limits.close()

    async def _tick(self) -> None:
        trim, trim_at = heap_trimmer(), 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            if now >= trim_at:
                trim()
                trim_at = now + TRIM_SECONDS
            self.state.tick(now)
            self._app.tick(now)
            self._publish_metrics()

    def _metrics_page(self) -> bytes:
        page = self._metrics.render(len(self.state.connections))
        return page if self._all_metrics is None else self._all_metrics.gather(page)

    def _publish_metrics(self) -> None:
        if self._all_metrics is not None:
            try:
                self._all_metrics.publish(self._metrics.render(len(self.state.connections)))
            except OSError as error:
                _log.warning("metrics_not_published", error=str(error))

    async def _follow(self, url: str) -> None:
        async def changed(kinds: set[str]) -> None:
            self.snapshot.update(self._feed, kinds)
            self._claims.update(self._feed, kinds)
            self._is_feed_saved = False
            await self._save()

        await follow(feed_pages(url, self._settings.feed_token), self._feed, changed)

    async def _save(self) -> None:
        """Saves the feed beside the loop: nothing changes the state meanwhile, its follower waits for this.

        Of several workers, the first saves it for all: they follow the same feed, and start from the same file.
        """
        if self._settings.worker != 0:
            self._is_feed_saved = True
            return
        path = self._settings.feed_state_path
        try:
            await asyncio.to_thread(_save, path, self._feed)
            self._is_feed_saved = True
        except (OSError, SetupError) as error:
            _log.warning("feed_not_saved", path=str(path), error=str(error))


async def serve(settings: GatewaySettings) -> None:
    """Runs a worker until SIGTERM or SIGINT. Raises `SetupError` or `SpoolUnavailable` where it cannot start."""
    clock = SystemClock()
    spool = SpoolWriter(settings.spool_folder, settings.name)
    gateway = Gateway(settings, spool, clock, spool.folder.name)
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    await gateway.start()
    # What lives now lives for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    await told_to_stop.wait()
    await gateway.stop()


def _shared_limits(settings: GatewaySettings) -> SharedLimits | None:
    if settings.limits_path is None:
        return None
    return SharedLimits(settings.limits_path, worker=settings.worker, workers=settings.workers)


def _save(path: Path, state: FeedState) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_state(path, state)


def _tls_context(settings: GatewaySettings) -> ssl.SSLContext | None:
    if settings.tls_certificate_path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_certificate_path, settings.tls_key_path)
    except OSError as error:
        raise SetupError(
            f"the TLS certificate {settings.tls_certificate_path} cannot be used: {error}",
            hint="give a PEM certificate chain and its unencrypted key",
        ) from error
    return context
