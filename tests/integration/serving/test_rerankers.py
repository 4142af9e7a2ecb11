"""One contract for every engine that ranks: a score for each document, `top_n`, and usage equal to its own counters."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.support.replicas import Replica, deployment, gguf, running
from tests.support.reranker import write_reranker

pytestmark = pytest.mark.anyio
DOCUMENTS = ["the cat sits on bread", "the sun shines", "where is rain"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all, so that a replica can be shared."""
    return "asyncio"


@pytest.fixture(scope="module", params=["llamacpp", "simulated"])
async def replica(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Replica]:
    if request.param == "simulated":
        async with running(SimulatedEngine(), deployment("simulated", task="rerank")) as started:
            yield started
        return
    weights = write_reranker(tmp_path_factory.mktemp("reranker") / "reranker.gguf")
    document = deployment("llamacpp", task="rerank", artifact=gguf(weights))
    async with running(LlamaCppEngine(), document, weights) as started:
        yield started


async def ranked(replica: Replica, **changes: Any) -> dict[str, Any]:
    body = {"query": "where is the cat", "documents": DOCUMENTS, "top_n": 3, **changes}
    response = await replica.client.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_ranks_every_document_and_counts_what_it_read(replica: Replica) -> None:
    before, _ = await replica.tokens()
    answer = await ranked(replica)
    assert {result["index"] for result in answer["results"]} == {0, 1, 2}
    assert answer["model"] == "public-name"
    after, output_tokens = await replica.tokens()
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] == after - before > 0
    assert output_tokens == 0


async def test_gives_the_best_alone_where_asked(replica: Replica) -> None:
    best = max((await ranked(replica))["results"], key=lambda result: result["relevance_score"])
    assert [result["index"] for result in (await ranked(replica, top_n=1))["results"]] == [best["index"]]


async def test_wants_its_token(replica: Replica) -> None:
    body = {"query": "x", "documents": ["y"]}
    response = await replica.client.post("/v1/rerank", json=body, headers={"authorization": "Bearer wrong"})
    assert response.status_code == 401
