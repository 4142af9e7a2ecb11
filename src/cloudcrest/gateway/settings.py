"""What a gateway worker is told at its start: one JSON file, written by the supervisor or by hand."""

from pathlib import Path

import msgspec

from cloudcrest.kernel.units import KIB, MIB


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one worker. Either `listen_fd` (an inherited listening socket) or `host` and `port`.

    `name` tells this worker from others of the region and names its spool folder. `worker` is its number (from 0) among
    the `workers` of this machine. The first saves the feed for all; `limits_path` is the table of limits they share
    (shared_limits.py); in `metrics_folder` each leaves its numbers for the one that is asked. `feed_url` is the region
    service's feed; without it the worker serves what `feed_state_path` holds. `grants_url` is where it asks for grants
    of budgets, with the same token; without it nothing can be spent of one. `control_url` is where the management API
    and the console are passed through to; None: nothing is. `content_url` is the region's content service,
    `content_token` what both show each other (behalf.py); `jobs_url`, `jobs_token` the same of the region service.
    `tls_*_path` set: TLS on the listening socket.
    `leave_ahead_seconds`: how long before its replica is stopped a stream goes on elsewhere.
    `replica_wait_seconds`: how long an answer whose replica was lost waits for one that takes it over.
    `request_timeout_seconds`: how long a request may take, waiting, retries and its answer included; keys, projects and
    organizations may have less. `poll_seconds`: how long a worker stays awake after a round (vigil.py). `presidio`: its
    recognizers are a detector of guardrails too. `metrics_token`: who brings it may read /metrics; without one only
    this machine may.
    """

    name: str
    region: str
    spool_folder: Path
    feed_state_path: Path
    worker: int = 0
    workers: int = 1
    limits_path: Path | None = None
    metrics_folder: Path | None = None
    listen_fd: int | None = None
    host: str = "127.0.0.1"
    port: int = 0
    feed_url: str | None = None
    feed_token: str = ""
    grants_url: str | None = None
    control_url: str | None = None
    content_url: str | None = None
    content_token: str = ""
    jobs_url: str | None = None
    jobs_token: str = ""
    tls_certificate_path: Path | None = None
    tls_key_path: Path | None = None
    cors_origins: tuple[str, ...] = ()
    docs_url: str = "/api/v1/docs"
    metrics_token: str | None = None
    presidio: bool = False
    log_level: str = "INFO"
    log_json: bool = True

    max_body_bytes: int = 32 * MIB
    max_head_bytes: int = 32 * KIB
    max_answer_bytes: int = 64 * MIB
    max_kept_bytes: int = 256 * KIB
    max_connections: int = 10_000
    max_idle_upstream_connections: int = 64

    head_timeout_seconds: float = 10
    body_timeout_seconds: float = 30
    idle_timeout_seconds: float = 75
    write_timeout_seconds: float = 60
    connect_timeout_seconds: float = 3
    answer_timeout_seconds: float = 600
    request_timeout_seconds: float = 1800
    proxy_timeout_seconds: float = 120
    replica_pause_seconds: float = 2
    replica_wait_seconds: float = 10
    leave_ahead_seconds: float = 5
    drain_seconds: float = 20
    poll_seconds: float = 0
