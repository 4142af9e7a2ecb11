"""The region's end of the usage link: posts batches to the control plane and says what came of it."""

import httpx2
import msgspec

from cloudcrest.kernel.errors import InvalidInput, PermissionDenied, TooLarge, Unavailable
from cloudcrest.metering.api import IngestReceipt, UsageBatch
from cloudcrest.metering.shipper import Send

USAGE_PATH = "/internal/v1/usage"


class _Problem(msgspec.Struct):
    """What matters of a problem document (RFC 9457)."""

    detail: str = ""
    code: str = ""


def usage_sender(
    client: httpx2.AsyncClient, control_url: str, region_token: str, *, timeout_seconds: float = 30
) -> Send:
    """A `send` for the shipper, over a client of the caller. `control_url` has no path."""
    headers = {"authorization": f"Bearer {region_token}", "content-type": "application/json"}
    url = f"{control_url.rstrip('/')}{USAGE_PATH}"

    async def send(batch: UsageBatch) -> IngestReceipt:
        try:
            response = await client.post(
                url, content=msgspec.json.encode(batch), headers=headers, timeout=timeout_seconds
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"the control plane did not answer: {error!r}") from error
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=IngestReceipt)
        problem = _problem(response.content)
        message = problem.detail or f"the control plane answered {response.status_code}"
        refusals = {400: InvalidInput, 422: InvalidInput, 413: TooLarge, 403: PermissionDenied}
        kind = refusals.get(response.status_code, Unavailable)
        raise kind(message, code=problem.code or None)

    return send


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body, type=_Problem)
    except ValueError:
        return _Problem()
