"""The link between gateways and their region's services, in both directions. Pure.

A gateway passes the content paths, and what is asked of jobs, on with who it authenticated. The content service asks
for inference on behalf of a key, so that all that holds for the key's requests holds for these. Both show the same
internal token; whoever does not have it is not believed a word of it.
"""

import re
from collections.abc import Iterable
from hmac import compare_digest
from math import ceil

from cloudcrest.gateway.request import Request
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import LimitExceeded

ORGANIZATION_HEADER = "x-cloudcrest-organization"
PROJECT_HEADER = "x-cloudcrest-project"
KEY_HEADER = "x-cloudcrest-key"
BEHALF_HEADER = "x-cloudcrest-on-behalf-of"
TIER_HEADER = "x-cloudcrest-tier"
BATCH_TIER = "batch"
NO_IDLE_CAPACITY = "no_idle_capacity"
"""The code of what a batch's request is told while others need the replicas."""
STILL_RUNS = "request_still_runs"
INTERNAL_HEADERS = frozenset(
    name.encode() for name in (ORGANIZATION_HEADER, PROJECT_HEADER, KEY_HEADER, BEHALF_HEADER, TIER_HEADER)
)
_VOLUMES = "/v1/volumes"
CONTENT_PATHS = ("/v1/files", "/v1/batches", "/v1/responses", "/v1/conversations", _VOLUMES)
_UNDER_CONTENT_PATHS = tuple(f"{path}/" for path in CONTENT_PATHS)
_RESERVED_SHARE = 0.25
_BACK_OFF_SECONDS = 2.0
_REQUEST_ID = re.compile(rb"req_[0-9a-hjkmnp-tv-z]{26}")


def is_content(path: str) -> bool:
    """Whether the content service answers this path."""
    return path in CONTENT_PATHS or path.startswith(_UNDER_CONTENT_PATHS)


def is_of_volume(path: str) -> bool:
    """Whether it is of those content paths that are part of running jobs: what is in a volume, jobs run."""
    return path == _VOLUMES or path.startswith(f"{_VOLUMES}/")


def is_of_job(path: str) -> bool:
    """Whether the region service answers this path: what a job writes and shows while it runs."""
    return path.startswith("/v1/jobs/")


def identity_lines(key: KeyDocument, token: str) -> list[bytes]:
    """The header lines that tell a service of the region who calls."""
    return [
        b"authorization: Bearer " + token.encode(),
        f"{ORGANIZATION_HEADER}: {key.organization_id}".encode(),
        f"{PROJECT_HEADER}: {key.project_id}".encode(),
        f"{KEY_HEADER}: {key.id}".encode(),
    ]


def take_behalf(request: Request, token: str) -> None:
    """Believes what a request says of whom it is for where it has the token, its own id included; else drops it."""
    expected = b"Bearer " + token.encode()
    if not token or request.authorization is None or not compare_digest(request.authorization, expected):
        request.behalf_of = None
        return
    request.is_batch = request.tier == BATCH_TIER.encode()
    for name, value in request.headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request.id = value.decode()


def check_idle(loads: Iterable[tuple[int, int]]) -> None:
    """Refuses a batch's request where its route is not idle enough: a quarter of the slots, rounded up, stays free for
    those who wait for their answers, and of a single slot nothing. `loads`: (slots, requests in flight) by replica.

    Raises `LimitExceeded`.
    """
    slots = in_flight = 0
    for replica_slots, replica_in_flight in loads:
        slots += replica_slots
        in_flight += replica_in_flight
    reserve = min(ceil(slots * _RESERVED_SHARE), slots - 1)
    if in_flight + 1 + reserve > slots:
        raise LimitExceeded(
            "batches run where capacity is idle, and there is none now",
            code=NO_IDLE_CAPACITY,
            retry_after_seconds=_BACK_OFF_SECONDS,
        )
