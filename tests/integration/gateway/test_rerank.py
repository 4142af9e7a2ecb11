"""Ranking through a gateway: by a reranker in llama.cpp, by real MiniLM's vectors, and what is charged for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.catalog.api import Task
from cloudcrest.gateway.dialects.dashscope.dialect import RERANK_SERVICE_PATH
from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.support.gateway_cloud import KEY, feed_state, route_document, running_gateway
from tests.support.replicas import deployment, gguf, running
from tests.support.reranker import write_reranker

pytestmark = pytest.mark.anyio
QUERY = "Where do penguins live?"
DOCUMENTS: list[Any] = [
    "The stock market fell by two per cent.",
    {"text": "Penguins live in the Antarctic and on the coasts of the south."},
    "A recipe for bread.",
]


class Cloud:
    def __init__(self, client: httpx2.AsyncClient, spool: MemorySpool) -> None:
        self.client = client
        self.spool = spool

    async def ask(self, path: str, **body: Any) -> dict[str, Any]:
        response = await self.client.post(path, json={"model": "m", **body})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@asynccontextmanager
async def cloud(folder: Path, engine: Engine, task: Task, weights: Path | None = None) -> AsyncIterator[Cloud]:
    document = deployment(engine.name, task=task, artifact=gguf(weights) if weights else None)
    async with running(engine, document, weights) as replica:
        route = route_document("m", (replica.url,), engine=engine.name, task=task, context_tokens=512)
        state = feed_state([route])
        state.documents["route"]["m"]["replicas"][0]["token"] = replica.token
        headers = {"authorization": f"Bearer {KEY}"}
        async with (
            running_gateway(folder, state) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=60, trust_env=False) as client,
        ):
            yield Cloud(client, gateway.spool)


async def test_a_model_for_embeddings_ranks_by_meaning(tmp_path: Path, embedding_weights: Path) -> None:
    async with cloud(tmp_path, LlamaCppEngine(), "embedding", embedding_weights) as c:
        answer = await c.ask("/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=True)
        best, second = answer["results"]
        assert best["index"] == 1
        assert best["document"] == DOCUMENTS[1]
        assert 1 >= best["relevance_score"] > 0.5 > second["relevance_score"] >= -1
        assert answer["meta"]["method"] == "embedding_cosine"
        assert c.spool.ended[-1].usage == Usage(answer["usage"]["total_tokens"], 0)
        assert c.spool.ended[-1].endpoint == "/v1/rerank"
        again = await c.ask("/v2/rerank", query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=4096)
        assert again["results"][0]["index"] == 1
        native = await c.ask(RERANK_SERVICE_PATH, input={"query": QUERY, "documents": DOCUMENTS})
        assert native["output"]["results"] == again["results"]
        assert native["usage"] == {"total_tokens": again["usage"]["total_tokens"]}
        assert (await c.ask("/compatible-api/v1/reranks", query=QUERY, documents=DOCUMENTS))["object"] == "list"
        refused = await c.client.post(
            "/v1/rerank", json={"model": "m", "query": QUERY, "documents": ["x", "word " * 3_000]}
        )
        assert refused.status_code == 400
        assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (
            "context_length_exceeded",
            "documents",
        )


async def test_a_reranker_in_llama_cpp_is_asked(tmp_path: Path) -> None:
    weights = write_reranker(tmp_path / "reranker.gguf")
    documents = ["the cat sits", "the sun shines in rain", "bread"]
    async with cloud(tmp_path, LlamaCppEngine(), "rerank", weights) as c:
        answer = await c.ask("/v1/rerank", query="where is the cat", documents=documents)
        scores = [result["relevance_score"] for result in answer["results"]]
        assert {result["index"] for result in answer["results"]} == {0, 1, 2}
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 3
        assert answer["meta"]["method"] == "reranker"
        assert c.spool.ended[-1].usage == Usage(answer["usage"]["total_tokens"], 0)
        assert answer["usage"]["total_tokens"] > 3 * 4  # the query with each of them
        refused = await c.client.post("/v1/embeddings", json={"model": "m", "input": "x"})
        assert refused.json()["error"]["param"] == "model"


async def test_the_simulated_reranker_counts_each_pair(tmp_path: Path) -> None:
    async with cloud(tmp_path, SimulatedEngine(), "rerank") as c:
        answer = await c.ask("/v1/rerank", query="one cat", documents=["a dog", "one cat", "one dog"], top_n=2)
        assert [(result["index"], result["relevance_score"]) for result in answer["results"]] == [(1, 1.0), (2, 0.5)]
        assert c.spool.ended[-1].usage == Usage(answer["usage"]["total_tokens"], 0)
