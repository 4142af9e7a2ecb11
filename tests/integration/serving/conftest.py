"""Weights for real engines: fetched once per machine through the artifact store, and kept."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudcrest.catalog.seed import read_seeds
from cloudcrest.catalog.store import ArtifactStore


def _fetch(model_id: str) -> Path:
    folder = Path(os.environ.get("CLOUDCREST_TEST_MODELS", "~/.cache/cloudcrest-tests/models")).expanduser()
    (model,) = [model for model in read_seeds() if model.id == model_id]
    # In a thread: the test that asks first may be an async one, whose loop already runs.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, ArtifactStore(folder).fetch(model.document(), "gguf")).result()


@pytest.fixture(scope="session")
def chat_weights() -> Path:
    """SmolLM2-135M-Instruct."""
    return _fetch("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def embedding_weights() -> Path:
    """all-MiniLM-L6-v2, converted to GGUF."""
    return _fetch("all-minilm-l6-v2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs only when it is asked for (`-m vllm`)."""
    if "vllm" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with -m vllm"))
