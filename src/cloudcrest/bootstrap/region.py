"""The region service: follows the control plane, keeps replicas as desired, tells gateways and ships usage.

Each of its parts goes on while the others' partners are away. What it knows is on disk (`feed.json`), what runs is in
the fabric, and what was served is in the spool, so kill -9 costs it nothing.
"""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudcrest.billing.api import RATE_CARD_KIND, RateCardsDocument
from cloudcrest.billing.grants import GRANTS_PATH
from cloudcrest.billing.periods import BUDGET_KIND
from cloudcrest.billing.relay import MAX_REQUEST_BYTES, GrantRelay
from cloudcrest.bootstrap.region_jobs import RegionJobs
from cloudcrest.bootstrap.region_meter import RegionMeter
from cloudcrest.bootstrap.region_placement import Published, make_placer, rules
from cloudcrest.bootstrap.settings import RegionSettings, derived_secret
from cloudcrest.bootstrap.settings_file import read_settings
from cloudcrest.bootstrap.web import serve_on
from cloudcrest.catalog.api import MODEL_PULL_KIND, ModelPullDocument
from cloudcrest.catalog.store import ArtifactStore
from cloudcrest.compute.api import (
    ACCELERATOR_TYPE_KIND,
    NODE_KIND,
    RACK_KIND,
    AcceleratorType,
    NodeDocument,
    RackDocument,
)
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.jobs.api import JOB_KIND, JobDocument
from cloudcrest.compute.nodes.reporter import NodeReporter
from cloudcrest.compute.quotas.api import QUOTA_KIND, QuotaDocument
from cloudcrest.identity.api import KEY_KIND, ORGANIZATION_KIND, PROJECT_KIND
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.feed_client import follow, load_state, save_state
from cloudcrest.infra.feed_http import feed_pages
from cloudcrest.infra.feed_server import MAX_WAIT_SECONDS, LocalFeed
from cloudcrest.infra.logs import configure_logs
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import SetupError, Unavailable
from cloudcrest.kernel.ids import new_id
from cloudcrest.metering.link import usage_sender
from cloudcrest.metering.shipper import Shipper
from cloudcrest.serving.api import DEPLOYMENT_KIND, ROUTE_KIND, DeploymentDocument, RegionStatus, RouteDocument
from cloudcrest.serving.controller import Controller
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.preparation import Folders

PASSED_THROUGH = (ORGANIZATION_KIND, PROJECT_KIND, KEY_KIND, BUDGET_KIND, RATE_CARD_KIND)
PLACED_BY = {NODE_KIND, RACK_KIND, ACCELERATOR_TYPE_KIND, RATE_CARD_KIND, QUOTA_KIND}
_STATUS_EVERY_SECONDS = 5.0
_STATUS_AT_MOST_EVERY_SECONDS = 0.1
_STATUS_TIMEOUT_SECONDS = 10.0
_SHIP_RETRY_SECONDS = (0.25, 5.0)
_log = structlog.get_logger(__name__)


def process(settings_path: Path) -> Coroutine[Any, Any, None]:
    """The region service of these settings, to be run on an event loop."""
    settings = read_settings(settings_path, RegionSettings)
    configure_logs("region", json=settings.log.json, level=settings.log.level)
    return RegionService(settings).run()


class RegionService:
    """One region's service, from its settings."""

    def __init__(self, settings: RegionSettings) -> None:
        self._settings = settings
        self._state = load_state(settings.feed_state_path)
        # A new life, a new epoch: gateways start over from the whole of what this process knows.
        self._feed = LocalFeed(epoch=secrets.token_hex(8))
        self._has_routes = asyncio.Event()
        self._status = RegionStatus()
        self._status_changed = asyncio.Event()
        engines = EngineSettings(
            runtimes_folder=settings.runtimes_folder,
            secrets_path=settings.secrets_path,
            outbound_allowed=settings.allowed_upstreams,
        )
        self._fabric = LocalFabric(settings.node_socket)
        self._meter = RegionMeter(settings, self._state)
        self._placer = make_placer(settings, self._fabric)
        self._jobs = RegionJobs(settings, self._fabric, self._placer, self._meter)
        self._controller = Controller(
            self._fabric,
            self._placer,
            ArtifactStore(settings.models_folder, settings.catalog),
            create_engines(engines),
            settings.region,
            clock=SystemClock(),
            new_id=new_id,
            on_routes=self._on_routes,
            on_status=self._on_status,
            settings=settings.serving,
            folders=Folders(settings.models_folder, settings.runtimes_folder, settings.catalog),
            replica_secret=derived_secret("replicas", settings.gateway_token),
        )

    async def run(self) -> None:
        """Runs until SIGTERM, or until a part fails in a way it does not mend itself: then it is started again."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            if self._state.cursor:
                self._take({*self._state.documents})
            settings = self._settings
            link = (client, settings.control_url, settings.region_token)
            send = usage_sender(*link)
            grants = GrantRelay(*link, settings.spool_folder)
            nodes = NodeReporter(self._fabric, *link, seen=self._placer.seen, clock=SystemClock())
            parts: list[Awaitable[object]] = [
                self._follow(client),
                nodes.run(),
                self._placer.run(),
                self._controller.run(),
                self._meter.run(grants),
                self._jobs.run(),
                self._jobs.push_reports(client),
                grants.run(),
                Shipper(settings.spool_folder, send, retry_seconds=_SHIP_RETRY_SECONDS).run(),
                self._push_status(client),
            ]
            tasks = [asyncio.ensure_future(part) for part in parts]
            serving = asyncio.create_task(serve_on(self._app(grants), settings.listen_fd))
            try:
                await asyncio.wait([serving, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await serving

    async def _follow(self, client: httpx2.AsyncClient) -> None:
        url = f"{self._settings.control_url}/internal/v1/feed"

        async def on_change(kinds: set[str]) -> None:
            self._take(kinds)
            # Gateways have heard already: a revocation does not wait for the disk.
            try:
                await asyncio.to_thread(save_state, self._settings.feed_state_path, self._state)
            except (OSError, SetupError) as error:
                _log.error("feed_state_not_saved", error=str(error))

        await follow(feed_pages(client, url, self._settings.region_token), self._state, on_change)

    def _take(self, kinds: set[str]) -> None:
        """Hands on what changed: accounts to the gateways, deployments and pulls to the controller."""
        documents = self._state.documents
        for kind in PASSED_THROUGH:
            if kind in kinds:
                self._feed.replace(kind, documents.get(kind, {}))
        self._controller.update(
            _decoded(self._state, DEPLOYMENT_KIND, DeploymentDocument),
            _decoded(self._state, MODEL_PULL_KIND, ModelPullDocument),
        )
        self._meter.update(kinds)
        self._jobs.update(_decoded(self._state, JOB_KIND, JobDocument))
        if kinds & PLACED_BY:
            published = Published(
                _decoded(self._state, NODE_KIND, NodeDocument),
                _decoded(self._state, RACK_KIND, RackDocument),
                _decoded(self._state, ACCELERATOR_TYPE_KIND, AcceleratorType),
                _decoded(self._state, RATE_CARD_KIND, RateCardsDocument),
                _decoded(self._state, QUOTA_KIND, QuotaDocument),
            )
            self._placer.update(rules(published, SystemClock().now()))

    def _on_routes(self, routes: dict[str, RouteDocument]) -> None:
        self._feed.replace(ROUTE_KIND, routes)
        self._has_routes.set()

    def _on_status(self, status: RegionStatus) -> None:
        self._status = status
        self._status_changed.set()

    async def _push_status(self, client: httpx2.AsyncClient) -> None:
        """Reports on change and at least every five seconds; a report that is lost is followed by a newer one."""
        url = f"{self._settings.control_url}/internal/v1/status"
        headers = {"authorization": f"Bearer {self._settings.region_token}", "content-type": "application/json"}
        while True:
            self._status_changed.clear()
            if self._has_routes.is_set():
                body = msgspec.json.encode(self._status)
                try:
                    answer = await client.put(url, content=body, headers=headers, timeout=_STATUS_TIMEOUT_SECONDS)
                    answer.raise_for_status()
                except httpx2.HTTPError as error:
                    _log.warning("status_not_reported", error=repr(error))
            await asyncio.sleep(_STATUS_AT_MOST_EVERY_SECONDS)
            try:
                await asyncio.wait_for(self._status_changed.wait(), _STATUS_EVERY_SECONDS)
            except TimeoutError:
                continue

    def _app(self, relay: GrantRelay) -> Starlette:
        """The link to gateways, with the gateway token: the feed, requests for grants of budgets; tenants' jobs."""
        expected = f"Bearer {self._settings.gateway_token}"

        def is_known(request: Request) -> bool:
            return hmac.compare_digest(request.headers.get("authorization", "").encode(), expected.encode())

        async def grants(request: Request) -> Response:
            if not is_known(request):
                return Response(status_code=401)
            body = await request.body()
            if len(body) > MAX_REQUEST_BYTES:
                return Response(status_code=413)
            try:
                status, answer = await relay.exchange(body)
            except Unavailable:
                return Response(status_code=503)
            return Response(answer, status_code=status, media_type="application/json")

        async def feed(request: Request) -> Response:
            if not is_known(request):
                return Response(status_code=401)
            wait_seconds = _wait_seconds(request.query_params)
            # Until the replicas of the service before are adopted, its routes are not known, and none is not the truth.
            try:
                await asyncio.wait_for(self._has_routes.wait(), wait_seconds)
            except TimeoutError:
                return Response(status_code=503)
            page = await self._feed.wait_for_page(request.query_params.get("cursor", ""), wait_seconds)
            return Response(msgspec.json.encode(page), media_type="application/json")

        async def healthz(_: Request) -> Response:
            return Response(b'{"status":"ok"}', media_type="application/json")

        routes = [
            Route("/internal/v1/feed", feed),
            Route(GRANTS_PATH, grants, methods=["POST"]),
            Route("/healthz", healthz),
            self._jobs.mount(),
        ]
        return Starlette(routes=routes)


def _decoded(state: FeedState, kind: str, struct: type[Any]) -> list[Any]:
    """The documents of a kind. One this version cannot read is left out and said so: the others go on."""
    decoded = []
    for document_id, body in state.documents.get(kind, {}).items():
        try:
            decoded.append(msgspec.convert(body, struct))
        except msgspec.ValidationError as error:
            _log.error("document_not_understood", kind=kind, id=document_id, error=str(error))
    return decoded


def _wait_seconds(query: Mapping[str, str]) -> float:
    try:
        return min(max(float(query.get("wait_seconds", "20")), 0.0), MAX_WAIT_SECONDS)
    except ValueError:
        return 0.0
