"""Pages of a feed over httpx2, for processes that load it anyway."""

import httpx2

from cloudcrest.infra.feed_client import ANSWER_SECONDS, FetchPage
from cloudcrest.kernel.errors import Unavailable


def feed_pages(client: httpx2.AsyncClient, url: str, token: str) -> FetchPage:
    """How to fetch pages of the feed at `url`."""
    headers = {"authorization": f"Bearer {token}"}

    async def fetch(cursor: str, wait_seconds: int) -> bytes:
        query = {"cursor": cursor, "wait_seconds": str(wait_seconds)}
        timeout = httpx2.Timeout(ANSWER_SECONDS, read=wait_seconds + ANSWER_SECONDS)
        try:
            answer = await client.get(url, params=query, headers=headers, timeout=timeout)
            return answer.raise_for_status().content
        except httpx2.HTTPError as error:
            raise Unavailable(f"the feed at {url} did not answer: {error!r}") from error

    return fetch
