"""Asking replicas how they are, and what follows from the answer."""

from collections.abc import Callable, Mapping

import httpx2
import structlog

from cloudcrest.kernel.clock import Clock
from cloudcrest.serving.engines.api import Engine, Probe
from cloudcrest.serving.replicas import Replica, replica_token
from cloudcrest.serving.settings import ServingSettings

_log = structlog.get_logger(__name__)


class Prober:
    """`on_failed` is told of a replica that does not answer, or was not ready in time, and why."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        secret: str,
        *,
        clock: Clock,
        settings: ServingSettings,
        on_failed: Callable[[Replica, str], None],
    ) -> None:
        self._engines = engines
        self._secret = secret
        self._clock = clock
        self._settings = settings
        self._on_failed = on_failed
        self._client = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_keepalive_connections=64))

    def is_due(self, replica: Replica, now: float) -> bool:
        """Whether it is its turn."""
        is_steady = replica.phase == "ready"
        every = self._settings.ready_probe_seconds if is_steady else self._settings.starting_probe_seconds
        return replica.has_process and now - replica.probed_at >= every

    async def probe(self, replica: Replica) -> None:
        """Asks one, and takes it into its next phase."""
        engine = self._engines[replica.document.engine]
        phase = replica.phase
        probe = await engine.probe(self._client, replica.url, replica_token(self._secret, replica.id))
        if replica.phase == phase:
            self._take(replica, engine, probe, self._clock.monotonic())

    async def close(self) -> None:
        await self._client.aclose()

    def _take(self, replica: Replica, engine: Engine, probe: Probe, now: float) -> None:
        phase = replica.phase
        if phase == "draining":
            replica.in_flight = probe.in_flight
        elif probe.is_ready:
            replica.unanswered = 0
            replica.pull = None
            if phase == "starting":
                _log.info("replica_ready", replica=replica.id, deployment=replica.document.id)
                replica.last_failure = None
                replica.enter("ready", now)
        elif phase == "ready" and probe.is_alive:
            # It answers that it cannot serve (an upstream that refuses us): out of the route, but no reason to restart.
            replica.enter("starting", now, probe.reason)
        elif phase == "ready":
            replica.unanswered += 1
            if replica.unanswered >= self._settings.unanswered_probes:
                self._on_failed(replica, f"stopped answering: it {probe.reason}")
        else:
            if probe.is_alive and not replica.last_failure:
                replica.reason = probe.reason
            if now - replica.since >= engine.start_timeout_seconds:
                seconds = engine.start_timeout_seconds
                self._on_failed(replica, f"was not ready after {seconds:.0f} s: it {probe.reason}")
