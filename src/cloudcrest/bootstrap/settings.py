"""What each process of a cloud is told.

`cloudcrest up` takes flags and environment variables (flags win), and writes one settings file for each process it
starts into `run/settings/`, readable by its owner alone. Environment variables of `up`:

    CLOUDCREST_DATA              data folder (--data); default $XDG_DATA_HOME/cloudcrest or ~/.local/share/cloudcrest
    CLOUDCREST_HOST              address to listen on (--host); default 127.0.0.1; 0.0.0.0 for every network
    CLOUDCREST_PORT              port (--port); default 8080; 0 takes a free one
    CLOUDCREST_TLS_CERT          certificate chain in PEM (--tls-cert); TLS is on when it is set
    CLOUDCREST_TLS_KEY           its private key in PEM (--tls-key)
    CLOUDCREST_CORS_ORIGINS      origins whose pages may call, with commas (--cors-origin, once each)
    CLOUDCREST_GATEWAY_WORKERS   gateway processes (--gateway-workers); default 1 on one or two cores, else a
                                 quarter of the cores, at least 2 and at most 8
    CLOUDCREST_DATABASE_URL      a PostgreSQL of one's own (--database-url) in place of the embedded one
    CLOUDCREST_REGION_DATABASE_URL  the region's database where the PostgreSQL is one's own; default: that server's
                                 database of the same name with `_region_local` behind it
    CLOUDCREST_DEFAULT_MODELS    false: no deployments are made on the first start (--no-default-models)
    CLOUDCREST_MODELS_FOLDER     artifact store, may be shared by clouds (--models-folder); default <data>/models
    CLOUDCREST_PUBLIC_URL        how clients reach this cloud, where that is not http(s)://host:port (behind a proxy)
    CLOUDCREST_LOG_LEVEL         debug, info, warning or error; default info
    CLOUDCREST_LOG_JSON          false: logs for people to read; default true
    CLOUDCREST_ALLOWED_UPSTREAMS internal networks (CIDR) and hosts that upstream deployments may reach, with commas
    CLOUDCREST_OPERATOR_EMAIL    account of the person who runs this cloud; default operator@cloudcrest.internal
    CLOUDCREST_OPERATOR_PASSWORD their password, set when the account is made; without one, by a password reset
    CLOUDCREST_STARTING_CREDIT   what a new organization starts with, a decimal amount
    CLOUDCREST_REGISTRATION      open, invitation or closed; with the rest of identity/settings.py (SMTP, lifetimes)
    CLOUDCREST_CATALOG_…         catalog/settings.py: mirrors, the disk reserve
    CLOUDCREST_SERVING_…         serving/settings.py: probes, backoff, draining
    CLOUDCREST_CONTENT_…         content/settings.py: what tenants may store in a region, and where
    CLOUDCREST_JOBS_…            compute/jobs/run_settings.py: how jobs are held, where volumes are
    CLOUDCREST_PLACEMENT_…       compute/placement/settings.py: how often nodes are asked for, when one counts as lost
    CLOUDCREST_METRICS_TOKEN     who brings it may read the gateway's /metrics; without one only this machine may
    CLOUDCREST_PRESIDIO          true: guardrails ask Presidio's recognizers too, which are to be installed
    CLOUDCREST_FABRIC            where things run (--fabric): local, this machine; ray, every node of a Ray cluster
    CLOUDCREST_NODE_ADDRESS      with ray (--node-address): this machine's address on the network that nodes share;
                                 default 127.0.0.1, where no other machine can join
    CLOUDCREST_NODE_LABELS       with ray (--node-label, once each): this machine's labels, KEY=VALUE with commas
    CLOUDCREST_NODE_TOKEN_FILE   with ray (--node-token-file): what nodes show each other; default one of our own
    CLOUDCREST_RAY_PORT          with ray (--ray-port): at which nodes join; default 6379; 0 takes a free one
    CLOUDCREST_RAY_ADDRESS       with ray (--ray-address): HOST:PORT of a cluster's head that runs already
    CLOUDCREST_REQUEST_TIMEOUT_SECONDS  how long an inference request may take in all; default 1800
    CLOUDCREST_GATEWAY_POLL_SECONDS  how long gateway workers stay awake after a request; default 0, they sleep at once
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cloudcrest.billing.settings import BillingSettings
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.placement.settings import PlacementSettings
from cloudcrest.content.settings import ContentSettings
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.serving.settings import ServingSettings


class UpSettings(msgspec.Struct, frozen=True):
    """What a person tells `up`; see above."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    database_url: str | None = None
    region_database_url: str | None = None
    default_models: bool = True
    models_folder: Path | None = None
    public_url: str | None = None
    log_level: str = "info"
    log_json: bool = True
    allowed_upstreams: tuple[str, ...] = ()
    metrics_token: str | None = None
    presidio: bool = False
    request_timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 1800.0
    gateway_workers: int = 1
    gateway_poll_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    operator_email: str = "operator@cloudcrest.internal"
    operator_password: str | None = None
    fabric: Literal["local", "ray"] = "local"
    node_address: str = "127.0.0.1"
    node_labels: tuple[str, ...] = ()
    node_token_file: Path | None = None
    ray_port: int = 6379
    ray_address: str | None = None

    @property
    def has_tls(self) -> bool:
        return self.tls_cert is not None


class LogSettings(msgspec.Struct, frozen=True):
    level: str
    json: bool


class ControlSettings(msgspec.Struct, frozen=True):
    """The control plane's. The keys are seeded as hashes; `listen_fd` is an inherited loopback socket."""

    listen_fd: int
    database_url: str
    base_url: str
    data_folder: Path
    master_key: str
    region_token: str
    first_api_key: str
    operator_api_key: str
    probe_api_key: str
    operator_email: str
    operator_password: str | None
    identity: IdentitySettings
    billing: BillingSettings
    log: LogSettings
    default_models: bool = True
    cors_origins: tuple[str, ...] = ()


class RegionSettings(msgspec.Struct, frozen=True):
    """A region service's. `control_url` has no path; `listen_fd` is an inherited loopback socket for gateways.

    `jobs_folder`: what it knows of jobs, and under it on each node what their members have there. `shared_folder`:
    volumes and checkpoints. `placement_folder`: what the placer remembers. `objects_url`: the region's object store.
    """

    region: str
    listen_fd: int
    control_url: str
    region_token: str
    gateway_token: str
    secrets_path: Path
    node_socket: Path
    feed_state_path: Path
    spool_folder: Path
    models_folder: Path
    runtimes_folder: Path
    catalog: CatalogSettings
    serving: ServingSettings
    jobs: RunSettings
    jobs_folder: Path
    placement: PlacementSettings
    placement_folder: Path
    shared_folder: Path
    objects_url: str
    log: LogSettings
    allowed_upstreams: tuple[str, ...] = ()


class ContentProcessSettings(msgspec.Struct, frozen=True):
    """A region's content service's. `gateway_url`: where it asks for inference, with TLS by `gateway_certificate_path`;
    `token` is what it and the gateways show each other; `listen_fd` is an inherited loopback socket for gateways.
    `shared_folder`: where volumes are.
    """

    region: str
    listen_fd: int
    database_url: str
    objects_url: str
    gateway_url: str
    token: str
    content: ContentSettings
    jobs: RunSettings
    shared_folder: Path
    log: LogSettings
    gateway_certificate_path: Path | None = None


class FabricProcessSettings(msgspec.Struct, frozen=True):
    """Those of the process that speaks for the nodes of a Ray cluster, at `node_socket`.

    `ray_address`: HOST:PORT of the cluster's head; `node_address`: this machine's there. `data_folder`: where every
    node has its own. `known_path`: what it remembers of the nodes there were.
    """

    ray_address: str
    node_address: str
    node_socket: Path
    data_folder: Path
    known_path: Path
    log: LogSettings


def derived_secret(purpose: str, secret: str) -> str:
    """Another secret that follows from one: for this purpose alone, and the same in every life of this cloud."""
    return hashlib.sha256(f"{purpose}:{secret}".encode()).hexdigest()
