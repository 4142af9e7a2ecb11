"""How often a generation that lost its replica ends as it would have: real llama.cpp, kill -9 in the middle.

    python -m bench.resume --weights FILE.gguf [--resumes N] [--schemas N]

A gateway stands before two replicas. Each prompt is answered greedily twice without interruption (how often the engine
repeats itself), then once more while the replica at work is killed after a random number of chunks; it is replaced.
Beside that, the engine is given the first chunks of its own answer to go on with, and nobody is killed: what it then
writes differs where reading a text and writing it, which it does in batches of other shapes, round differently.
With a JSON schema the answer is to stay valid JSON. Prints a table and writes bench/out/resume.json.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import uvloop

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.gateway.server import Gateway
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.identity.api import KeyDocument, OrganizationDocument, ProjectDocument
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.serving.api import ReplicaEndpoint, RouteDocument
from cloudcrest.serving.engines.api import TOKEN_VARIABLE
from cloudcrest.serving.engines.llamacpp_server import Arguments
from cloudcrest.serving.launching import free_port

KEY = "sk-cc-bench"
MODEL = "bench"
TOKEN = "replica-token"  # noqa: S105 - of a replica that lives for a minute
OUT = Path(__file__).parent / "out"
START_SECONDS = 120.0
CONTEXT_TOKENS = 1024
MAX_TOKENS = 64
_SUBJECTS = [
    "the sea",
    "a lighthouse",
    "trains",
    "bread",
    "winter",
    "the moon",
    "bees",
    "a market",
    "maps",
    "old trees",
]
_QUESTIONS = (
    "Write three sentences about {}.",
    "Explain {} to a child.",
    "List what one should know about {}.",
    "Tell a short story with {} in it.",
    "Why do people care about {}?",
    "Write a letter that mentions {}.",
    "Compare {} with a river.",
    "Describe {} without using any number.",
    "What would a poet say about {}?",
    "Give advice on {}.",
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "year": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["title", "year", "tags"],
    "additionalProperties": False,
}


class Replica:
    """One llama.cpp process."""

    def __init__(self, number: int, weights: Path) -> None:
        self.name = f"rep_{number}"
        self.port = free_port()
        arguments = Arguments(
            model=str(weights),
            alias=MODEL,
            host="127.0.0.1",
            port=self.port,
            slots=2,
            context_tokens=CONTEXT_TOKENS,
            threads=1,
            task="chat",
        )
        written = msgspec.json.encode(arguments).decode()
        argv = [sys.executable, "-m", "cloudcrest.serving.engines.llamacpp_server", written]
        environment = os.environ | {TOKEN_VARIABLE: TOKEN}
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, env=environment, stdout=quiet, stderr=quiet)

    @property
    def endpoint(self) -> ReplicaEndpoint:
        return ReplicaEndpoint(self.name, f"http://127.0.0.1:{self.port}", TOKEN, 2)

    async def ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        async with httpx2.AsyncClient(trust_env=False) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get(f"{self.endpoint.url}/health")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        sys.exit("a replica did not get ready")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Bench:
    """The gateway, its two replicas and a client."""

    def __init__(self, gateway: Gateway, state: FeedState, weights: Path) -> None:
        self.gateway = gateway
        self.state = state
        self.weights = weights
        self.replicas: dict[str, Replica] = {}
        self.kills = 0
        self.client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=120,
            trust_env=False,
        )
        self._made = 0

    async def refill(self) -> None:
        """Starts what is missing of the two replicas and routes to what there is."""
        while len(self.replicas) < 2:
            replica = Replica(self._made, self.weights)
            self._made += 1
            self.replicas[replica.name] = replica
        for replica in self.replicas.values():
            await replica.ready()
        endpoints = tuple(replica.endpoint for replica in self.replicas.values())
        route = RouteDocument(MODEL, "dep_bench", "chat", "llamacpp", CONTEXT_TOKENS, endpoints, 0)
        self.state.documents["route"] = {MODEL: msgspec.to_builtins(route)}
        self.gateway.snapshot.update(self.state, {"route"})

    def kill_the_one_at_work(self) -> None:
        (busy,) = [replica for replica in self.gateway.snapshot.routes[MODEL].replicas if replica.in_flight]
        self.replicas.pop(busy.name).kill()
        self.kills += 1

    async def ask(
        self, question: str, *, begun: str = "", kill_after: int | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One streamed greedy answer: its texts, chunks, ids and usage. `begun`: what it is to go on after."""
        messages = [{"role": "user", "content": question}]
        if begun:
            messages.append({"role": "assistant", "content": begun})
        body = {
            "model": MODEL,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        chunks: list[dict[str, Any]] = []
        async with self.client.stream("POST", "/v1/chat/completions", json=body | fields) as response:
            if response.status_code != 200:
                sys.exit(f"refused: {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunks.append(json.loads(line[6:]))
                if len(chunks) == kill_after:
                    self.kill_the_one_at_work()
        if any("error" in chunk for chunk in chunks):
            sys.exit(f"a stream failed: {chunks[-1]}")
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        texts = [delta.get("content") or "" for delta in deltas]
        return {
            "text": "".join(texts),
            "texts": texts,
            "chunks": len(chunks),
            "ids": len({chunk["id"] for chunk in chunks}),
            "roles": sum("role" in delta for delta in deltas),
            "usage": next((chunk["usage"] for chunk in chunks if chunk.get("usage")), None),
        }

    async def close(self) -> None:
        await self.client.aclose()
        for replica in self.replicas.values():
            replica.kill()


@contextlib.asynccontextmanager
async def running(folder: Path, weights: Path) -> AsyncIterator[Bench]:
    """A gateway over a feed made by hand."""
    key = KeyDocument("key_1", hashlib.sha256(KEY.encode()).hexdigest(), "proj_1", "org_1")
    documents = {
        "organization": {"org_1": msgspec.to_builtins(OrganizationDocument("org_1"))},
        "project": {"proj_1": msgspec.to_builtins(ProjectDocument("proj_1", "org_1"))},
        "key": {key.id: msgspec.to_builtins(key)},
    }
    state = FeedState(cursor="bench.1", documents=documents)
    settings = GatewaySettings("bench", "local", folder / "spool", folder / "feed.json", log_level="ERROR")
    gateway = Gateway(settings, MemorySpool(), SystemClock())
    gateway.snapshot.update(state, set(state.documents))
    await gateway.start()
    bench = Bench(gateway, state, weights)
    try:
        await bench.refill()
        yield bench
    finally:
        await bench.close()
        await gateway.stop()


async def measure(weights: Path, resumes: int, schemas: int) -> dict[str, Any]:
    """Everything, in a folder that is gone afterwards."""
    chance = random.Random(1)
    found = {"resumes": 0, "text_equal": 0, "usage_equal": 0, "one_answer": 0, "engine_repeats_itself": 0}
    found |= {"engine_goes_on_alike": 0}
    found |= {"schemas": 0, "schema_valid": 0, "schema_equal": 0}
    questions = [question.format(subject) for subject in _SUBJECTS for question in _QUESTIONS]
    with tempfile.TemporaryDirectory(prefix="resume") as folder:
        async with running(Path(folder), weights) as bench:
            for question in questions[:resumes]:
                whole, again = await bench.ask(question), await bench.ask(question)
                cut = chance.randrange(2, max(3, whole["chunks"] - 3))
                resumed = await bench.ask(question, kill_after=cut)
                found["resumes"] += 1
                found["engine_repeats_itself"] += whole["text"] == again["text"]
                found["text_equal"] += resumed["text"] in (whole["text"], again["text"])
                found["usage_equal"] += resumed["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
                found["one_answer"] += (resumed["ids"], resumed["roles"]) == (1, 1)
                begun = "".join(whole["texts"][:cut])
                rest = await bench.ask(question, begun=begun, max_tokens=max(1, len(whole["texts"]) - cut))
                found["engine_goes_on_alike"] += _is_alike(whole["text"], begun + rest["text"])
                await bench.refill()
            response_format = {"type": "json_schema", "json_schema": {"name": "book", "schema": _SCHEMA}}
            fields: dict[str, Any] = {"response_format": response_format, "max_tokens": 200}
            for question in questions[:schemas]:
                whole = await bench.ask(question, **fields)
                cut = chance.randrange(2, max(3, whole["chunks"] - 3))
                resumed = await bench.ask(question, kill_after=cut, **fields)
                found["schemas"] += 1
                found["schema_valid"] += _is_valid(resumed["text"])
                found["schema_equal"] += resumed["text"] == whole["text"]
                await bench.refill()
            if bench.kills != found["resumes"] + found["schemas"]:
                sys.exit("not every stream lost its replica")
    return found


def _is_alike(whole: str, other: str) -> bool:
    """Whether two texts are one, as far as both go: chunks are not quite tokens, so one may be limited sooner."""
    return whole.startswith(other) or other.startswith(whole)


def _is_valid(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"title", "year", "tags"}
    except ValueError:
        return False


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--resumes", type=int, default=100)
    parser.add_argument("--schemas", type=int, default=20)
    arguments = parser.parse_args()
    found = uvloop.run(measure(arguments.weights, arguments.resumes, arguments.schemas))
    OUT.mkdir(exist_ok=True)
    (OUT / "resume.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, number in found.items():
        print(f"{name:24}{number:6}")


if __name__ == "__main__":
    main()
