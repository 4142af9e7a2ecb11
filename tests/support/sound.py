"""Real engines for sound: weights and runtimes are fetched once per machine, and kept between runs."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloudcrest.catalog.store import ArtifactStore
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.moonshine import MoonshineEngine
from cloudcrest.serving.engines.piper import PiperEngine
from cloudcrest.serving.records import EngineOptions
from tests.support.engines import RUNTIMES
from tests.support.replicas import Replica, running
from tests.support.weights import models_folder, seeded

SPEECH_MODEL, TRANSCRIPTION_MODEL = "piper-en-us-joe-medium", "moonshine-tiny-en"
SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody found a mistake."


@asynccontextmanager
async def running_sound(name: EngineName, options: EngineOptions | None = None) -> AsyncIterator[Replica]:
    """A replica of `piper` or `moonshine` with the model that every cloud starts with."""
    engine = PiperEngine(RUNTIMES) if name == "piper" else MoonshineEngine(RUNTIMES)
    model = seeded(SPEECH_MODEL if name == "piper" else TRANSCRIPTION_MODEL)
    weights = await ArtifactStore(models_folder()).fetch(model, "onnx")
    document = DeploymentDocument(
        id="dep_test",
        generation=1,
        region="local",
        model_name="public-name",
        model=model,
        engine=name,
        replicas_min=1,
        replicas_max=1,
        context_tokens=0,
        slots=2,
        created_at_unix_seconds=0,
        engine_options=options or {},
        cpu_threads=1,
    )
    await engine.prepare(document, lambda _: None)
    async with running(engine, document, weights) as replica:
        yield replica


def words(text: str) -> list[str]:
    """A text's words, without case and points."""
    return re.findall(r"[a-z0-9']+", text.lower())


def share_heard(said: str, heard: str) -> float:
    """The part of the words said that were heard."""
    known = set(words(heard))
    return sum(word in known for word in words(said)) / len(words(said))
