"""The region's part in hard budgets: it hands gateways' requests for grants on, and says whose spool has arrived.

It keeps nothing. A holder that the control plane knows and that has no spool folder any more is drained: the shipper
removes a folder only when all in it was taken, and a worker makes its folder before it asks for anything.
"""

import asyncio
from pathlib import Path
from typing import NoReturn

import httpx2
import msgspec
import structlog

from cloudcrest.billing.grants import GRANTS_PATH, DrainReport, Holders
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.units import MIB

MAX_REQUEST_BYTES = 4 * MIB
_TIMEOUT_SECONDS = 5.0
_REPORT_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class GrantRelay:
    """Between the gateways of a region and the control plane. `spool_folder`: where the gateways' spools are."""

    def __init__(self, client: httpx2.AsyncClient, control_url: str, region_token: str, spool_folder: Path) -> None:
        self._client = client
        self._url = f"{control_url.rstrip('/')}{GRANTS_PATH}"
        self._headers = {"authorization": f"Bearer {region_token}", "content-type": "application/json"}
        self._folder = spool_folder

    async def exchange(self, body: bytes) -> tuple[int, bytes]:
        """A gateway's request for grants, and what the control plane answers. Raises `Unavailable` where none comes."""
        return await self._post(self._url, body)

    async def run(self) -> NoReturn:
        """Reports drained holders until cancelled."""
        drained: tuple[str, ...] = ()
        pause_seconds = _REPORT_SECONDS
        while True:
            try:
                status, body = await self._post(f"{self._url}/drained", msgspec.json.encode(DrainReport(drained)))
                if status != 200:
                    raise Unavailable(f"the control plane answered {status}")
                holders = msgspec.json.decode(body, type=Holders).holders
                drained = await asyncio.to_thread(gone, self._folder, holders)
                pause_seconds = _REPORT_SECONDS
            except (Unavailable, ValueError, OSError) as error:
                _log.warning("drained_not_reported", error=str(error))
                pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)
            await asyncio.sleep(0 if drained else pause_seconds)

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        try:
            answer = await self._client.post(url, content=body, headers=self._headers, timeout=_TIMEOUT_SECONDS)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the control plane did not answer: {error!r}") from error
        return answer.status_code, answer.content


def gone(spool_folder: Path, holders: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the holders that have no folder. Raises `OSError` where the spool itself is not there: a disk that is
    not mounted has drained nothing.
    """
    there = {entry.name for entry in spool_folder.iterdir()}
    return tuple(holder for holder in holders if holder not in there)
