"""The processes that are always there: how each is started, and what it is told."""

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit, urlunsplit

import msgspec

from cloudcrest.billing.grants import GRANTS_PATH
from cloudcrest.billing.settings import BillingSettings
from cloudcrest.bootstrap.data_folder import DataFolder, Secrets
from cloudcrest.bootstrap.ports import port_of
from cloudcrest.bootstrap.settings import (
    ContentProcessSettings,
    ControlSettings,
    LogSettings,
    RegionSettings,
    UpSettings,
    derived_secret,
)
from cloudcrest.bootstrap.settings_file import write_settings
from cloudcrest.bootstrap.supervise import Service
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.placement.settings import PlacementSettings
from cloudcrest.content.settings import ContentSettings
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.shared_limits import create_table
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.guard import guarded
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.infra.settings import load_settings
from cloudcrest.serving.settings import ServingSettings

REGION = "local"
POSTGRES = "postgres"
CONTROL = "control"
REGION_SERVICE = "region"
CONTENT = "content"
GATEWAY = "gateway"
DATABASE = "cloudcrest"
REGION_DATABASE = f"region_{REGION}"
_GATEWAY_DRAIN_SECONDS = 5.0
_PLACEMENT = "CLOUDCREST_PLACEMENT_"
_LOST_SECONDS, _LOST_SECONDS_OVER_RAY = f"{_PLACEMENT}LOST_SECONDS", "10"
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN(?:$|_)|CREDENTIAL|ACCESS_KEY|API_KEY|DATABASE_URL", re.IGNORECASE)
"""Names of environment variables that hold what replicas have no use for."""


@dataclass(frozen=True)
class Sockets:
    """The listening sockets: the public ones, one for each gateway worker, and those on loopback between our own
    processes.
    """

    public: tuple[socket, ...]
    control: socket
    region: socket
    content: socket

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{port_of(self.control)}"

    @property
    def region_url(self) -> str:
        return f"http://127.0.0.1:{port_of(self.region)}"

    @property
    def content_url(self) -> str:
        return f"http://127.0.0.1:{port_of(self.content)}"


@dataclass(frozen=True)
class Plan:
    """Everything that the services are made from."""

    settings: UpSettings
    folder: DataFolder
    secrets: Secrets
    sockets: Sockets
    base_url: str
    environment: Mapping[str, str]

    @property
    def node_socket(self) -> Path:
        """At which the region service finds its nodes."""
        return self.folder.socket_folder / "node.sock"

    @property
    def agent_socket(self) -> Path:
        """At which this machine's own agent listens."""
        return self.node_socket if self.settings.fabric == "local" else self.folder.socket_folder / "agent.sock"

    @property
    def models_folder(self) -> Path:
        chosen = self.settings.models_folder
        return self.folder.root / "models" if chosen is None else chosen.expanduser().absolute()

    @property
    def region_folder(self) -> Path:
        return self.folder.root / "regions" / REGION

    @property
    def content_token(self) -> str:
        """What gateways and the content service show each other: the same in every life of this cloud."""
        return derived_secret("content", self.secrets.gateway_token)

    @property
    def objects_url(self) -> str:
        """The region's object store: tenants' files, what jobs leave."""
        given = load_settings(ContentSettings, self.environment, "CLOUDCREST_CONTENT_")
        return given.objects_url or str(self.region_folder / "objects")

    @property
    def shared_folder(self) -> Path:
        """Where volumes and checkpoints are, the same on every node of the region."""
        return self.jobs().shared_folder or self.region_folder / "shared"

    @property
    def certificate(self) -> Path | None:
        return _absolute(self.settings.tls_cert)

    @property
    def log(self) -> LogSettings:
        return LogSettings(level=self.settings.log_level.lower(), json=self.settings.log_json)

    def catalog(self) -> CatalogSettings:
        return load_settings(CatalogSettings, self.environment, "CLOUDCREST_CATALOG_")

    def placement(self) -> PlacementSettings:
        """As it is set. Over Ray, a node whose Ray starts again is away for some seconds, and no lost one."""
        environment = {_LOST_SECONDS: _LOST_SECONDS_OVER_RAY} if self.settings.fabric == "ray" else {}
        return load_settings(PlacementSettings, {**environment, **self.environment}, _PLACEMENT)

    def jobs(self) -> RunSettings:
        return load_settings(RunSettings, self.environment, "CLOUDCREST_JOBS_")

    def identity(self) -> IdentitySettings:
        given = load_settings(IdentitySettings, self.environment)
        public_url = (self.settings.public_url or self.base_url).rstrip("/")
        return msgspec.structs.replace(
            given,
            public_url=public_url,
            # A proxy in front of us may be where TLS ends.
            secure_cookies=given.secure_cookies or self.settings.has_tls or public_url.startswith("https://"),
        )


def postgres_service(postgres: EmbeddedPostgres) -> Service:
    """The embedded PostgreSQL, under a guard: it knows nothing of lifelines. SIGINT is its orderly stop."""
    argv = guarded(postgres.command(), stop_signal="INT")
    return Service(ProcessSpec(id=POSTGRES, argv=argv, stop_grace_seconds=20), prepare=postgres.prepare)


def control_service(plan: Plan, database_url: str) -> Service:
    """The control plane, on its inherited loopback socket."""
    settings = ControlSettings(
        listen_fd=plan.sockets.control.fileno(),
        database_url=database_url,
        base_url=plan.base_url,
        data_folder=plan.folder.root,
        master_key=plan.secrets.master_key,
        region_token=plan.secrets.region_token,
        first_api_key=plan.secrets.first_api_key,
        operator_api_key=plan.secrets.operator_api_key,
        probe_api_key=plan.secrets.probe_api_key,
        operator_email=plan.settings.operator_email,
        operator_password=plan.settings.operator_password,
        identity=plan.identity(),
        billing=load_settings(BillingSettings, plan.environment),
        log=plan.log,
        default_models=plan.settings.default_models,
        cors_origins=plan.settings.cors_origins,
    )
    return own_service(plan, CONTROL, settings, plan.sockets.control)


def region_service(plan: Plan) -> Service:
    """The region service of `local`."""
    region = plan.region_folder
    settings = RegionSettings(
        region=REGION,
        listen_fd=plan.sockets.region.fileno(),
        control_url=plan.sockets.control_url,
        region_token=plan.secrets.region_token,
        gateway_token=plan.secrets.gateway_token,
        secrets_path=plan.folder.root / "secrets.json",
        node_socket=plan.node_socket,
        feed_state_path=region / "feed.json",
        spool_folder=region / "spool",
        models_folder=plan.models_folder,
        runtimes_folder=plan.folder.root / "runtimes",
        catalog=plan.catalog(),
        serving=load_settings(ServingSettings, plan.environment, "CLOUDCREST_SERVING_"),
        jobs=plan.jobs(),
        jobs_folder=region / "jobs",
        placement=plan.placement(),
        placement_folder=region / "placement",
        shared_folder=plan.shared_folder,
        objects_url=plan.objects_url,
        log=plan.log,
        allowed_upstreams=plan.settings.allowed_upstreams,
    )
    return own_service(plan, REGION_SERVICE, settings, plan.sockets.region)


def content_service(plan: Plan, database_url: str) -> Service:
    """The content service of `local`: files, batches and responses, over the region's own database."""
    settings = ContentProcessSettings(
        region=REGION,
        listen_fd=plan.sockets.content.fileno(),
        database_url=database_url,
        objects_url=plan.objects_url,
        gateway_url=plan.base_url,
        gateway_certificate_path=plan.certificate,
        token=plan.content_token,
        content=load_settings(ContentSettings, plan.environment, "CLOUDCREST_CONTENT_"),
        jobs=plan.jobs(),
        shared_folder=plan.shared_folder,
        log=plan.log,
    )
    return own_service(plan, CONTENT, settings, plan.sockets.content)


def region_database_url(settings: UpSettings) -> str:
    """The region's database at a server of one's own: as it is given, or beside the control plane's."""
    if settings.region_database_url is not None:
        return settings.region_database_url
    parts = urlsplit(settings.database_url or "")
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/') or f'/{DATABASE}'}_{REGION_DATABASE}"))


def gateway_services(plan: Plan) -> list[Service]:
    """The gateway's workers, each on its own public socket, and what they share: limits and metrics."""
    workers = len(plan.sockets.public)
    shared = plan.folder.run / "gateway"
    shutil.rmtree(shared, ignore_errors=True)  # of a run before, which may have had more workers
    if workers > 1:
        create_table(shared / "limits", workers)
    return [_gateway_service(plan, worker, shared if workers > 1 else None) for worker in range(workers)]


def gateway_name(worker: int) -> str:
    """The name of a worker by its number: of its process, its log, its spool and its metrics."""
    return f"{GATEWAY}-{worker}" if worker else GATEWAY


def _gateway_service(plan: Plan, worker: int, shared: Path | None) -> Service:
    region = plan.region_folder
    listening = plan.sockets.public[worker]
    name = gateway_name(worker)
    settings = GatewaySettings(
        name=name,
        worker=worker,
        workers=len(plan.sockets.public),
        limits_path=None if shared is None else shared / "limits",
        metrics_folder=None if shared is None else shared / "metrics",
        region=REGION,
        spool_folder=region / "spool",
        feed_state_path=region / "gateway" / "feed.json",
        listen_fd=listening.fileno(),
        feed_url=f"{plan.sockets.region_url}/internal/v1/feed",
        feed_token=plan.secrets.gateway_token,
        grants_url=f"{plan.sockets.region_url}{GRANTS_PATH}",
        control_url=plan.sockets.control_url,
        content_url=plan.sockets.content_url,
        content_token=plan.content_token,
        jobs_url=plan.sockets.region_url,
        jobs_token=derived_secret("jobs", plan.secrets.gateway_token),
        tls_certificate_path=plan.certificate,
        tls_key_path=_absolute(plan.settings.tls_key),
        cors_origins=plan.settings.cors_origins,
        metrics_token=plan.settings.metrics_token,
        presidio=plan.settings.presidio,
        request_timeout_seconds=plan.settings.request_timeout_seconds,
        poll_seconds=plan.settings.gateway_poll_seconds,
        log_level=plan.log.level.upper(),
        log_json=plan.log.json,
        drain_seconds=_GATEWAY_DRAIN_SECONDS,
    )
    return own_service(plan, GATEWAY, settings, listening, name=name, stop_grace_seconds=_GATEWAY_DRAIN_SECONDS + 3)


def service_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What our processes get of our environment. Each is told what concerns it in its settings file, so nothing that
    configures the cloud, some of that is secret.
    """
    return {name: value for name, value in environment.items() if not name.startswith("CLOUDCREST_")}


def replica_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What replicas get of it: no credentials of others either, their weights are there when they start."""
    return {name: value for name, value in service_environment(environment).items() if not _SECRET.search(name)}


def own_service(
    plan: Plan,
    role: str,
    settings: msgspec.Struct,
    listening: socket | None = None,
    *,
    name: str = "",
    environment: Mapping[str, str] | None = None,
    stop_grace_seconds: float = 5.0,
) -> Service:
    """A process of ours in a role; `name` tells it from others of the same. `environment` is added to what all get."""
    name = name or role
    path = plan.folder.settings / f"{name}.json"
    write_settings(path, settings)
    # -P: what lies in the folder `up` was started in is not imported.
    argv = (sys.executable, "-P", "-m", "cloudcrest.bootstrap", role, "--settings", str(path))
    spec = ProcessSpec(id=name, argv=argv, environment=dict(environment or {}), stop_grace_seconds=stop_grace_seconds)
    return Service(spec, inherited_fds=() if listening is None else (listening.fileno(),))


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
