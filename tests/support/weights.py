"""Weights for real engines: fetched once per machine through the artifact store, and kept between runs.

They lie in CLOUDCREST_TEST_MODELS, or ~/.cache/cloudcrest-tests/models.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cloudcrest.catalog.api import ModelDocument
from cloudcrest.catalog.seed import read_seeds
from cloudcrest.catalog.store import ArtifactStore

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"


def models_folder() -> Path:
    """The artifact store that all tests share."""
    return Path(os.environ.get("CLOUDCREST_TEST_MODELS") or "~/.cache/cloudcrest-tests/models").expanduser()


def seeded(model_id: str) -> ModelDocument:
    """A model that every cloud starts with, as regions get it."""
    [model] = [model for model in read_seeds() if model.id == model_id]
    return model.document()


def fetch(model_id: str) -> Path:
    """The model's GGUF file, here when this returns."""
    # In a thread: the test that asks first may be an async one, whose loop already runs.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, ArtifactStore(models_folder()).fetch(seeded(model_id), "gguf")).result()
