"""What a worker asks its region for: the feed's pages and grants of budgets.

Over the connections that it has for replicas: an HTTP client with all that it may do is as much memory as 5,000 keys.
"""

from urllib.parse import urlencode, urlsplit

from cloudcrest.gateway.client import MAX_ANSWER_BYTES, exchange
from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.desk import Exchange
from cloudcrest.infra.feed_client import ANSWER_SECONDS, FetchPage
from cloudcrest.kernel.errors import EngineFault, Unavailable
from cloudcrest.kernel.units import MIB

MAX_PAGE_BYTES = 256 * MIB
_GRANT_SECONDS = 5.0


def feed_pages(url: str, token: str) -> FetchPage:
    """How to fetch pages of the feed at `url`."""
    region = Upstream(url, token=token)
    path = urlsplit(url).path

    async def fetch(cursor: str, wait_seconds: int) -> bytes:
        query = urlencode({"cursor": cursor, "wait_seconds": wait_seconds})
        request = b"GET %b?%b HTTP/1.1\r\n%b\r\n" % (path.encode(), query.encode(), region.head_lines)
        return await _answer(region, request, wait_seconds + ANSWER_SECONDS, MAX_PAGE_BYTES)

    return fetch


def grants_exchange(url: str, token: str) -> Exchange:
    """How to ask the region service at `url` for grants."""
    region = Upstream(url, token=token)
    path = urlsplit(url).path

    async def ask(body: bytes) -> bytes:
        head = b"POST %b HTTP/1.1\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return await _answer(region, head % (path.encode(), region.head_lines, len(body)) + body, _GRANT_SECONDS)

    return ask


async def _answer(region: Upstream, request: bytes, timeout_seconds: float, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    try:
        status, body = await exchange(region, request, timeout_seconds, max_answer_bytes=max_bytes)
    except (OSError, EngineFault) as error:  # a timeout is an OSError
        raise Unavailable(f"the region at {region.url} did not answer: {error!r}") from error
    if status != 200:
        raise Unavailable(f"the region at {region.url} answered {status}")
    return body
