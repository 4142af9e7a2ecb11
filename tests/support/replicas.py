"""Real replicas for tests: an engine's own process, started as the fabric would start it."""

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec

from cloudcrest.catalog.api import Artifact, ArtifactFile, ModelDocument, Task
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.api import Engine, Launch, Probe
from cloudcrest.serving.launching import free_port
from cloudcrest.serving.records import EngineOptions
from tests.support.waiting import until_async

START_SECONDS = 60


class Replica(msgspec.Struct):
    """A running replica. `client` is set up with its address and token."""

    client: httpx2.AsyncClient
    url: str
    token: str
    engine: Engine
    process: subprocess.Popen[bytes]

    async def tokens(self) -> tuple[int, int]:
        """(input, output) tokens that the engine itself says it worked on, cached input included."""
        worked = await self.counters()
        return worked.input_tokens, worked.output_tokens

    async def counters(self) -> Usage:
        """The engine's own counters since it started, as usage."""
        text = (await self.client.get("/metrics")).text
        values = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]

        def total(*names: str) -> int:
            """The sum of these counters, whatever their prefix and labels."""
            return sum(int(float(value)) for key, value in values if key.partition("{")[0].split(":")[-1] in names)

        cached_tokens = total("prompt_tokens_cached_total")
        # vLLM counts what was cached as a part of the prompt's tokens, llama.cpp beside them.
        beside = 0 if self.engine.name == "vllm" else cached_tokens
        output_tokens = total("tokens_predicted_total", "generation_tokens_total")
        return Usage(total("prompt_tokens_total") + beside, output_tokens, cached_tokens)

    async def in_flight(self) -> int | None:
        return (await self.engine.probe(self.client, self.url, self.token)).in_flight


def deployment(
    engine: EngineName,
    *,
    task: Task = "chat",
    slots: int = 3,
    context_tokens: int = 512,
    artifact: Artifact | None = None,
    options: EngineOptions | None = None,
) -> DeploymentDocument:
    model = ModelDocument(
        id="tiny", task=task, context_tokens=8192, artifacts=(artifact,) if artifact else (), dimensions=384
    )
    return DeploymentDocument(
        id="dep_test",
        generation=1,
        region="local",
        model_name="public-name",
        model=model,
        engine=engine,
        replicas_min=1,
        replicas_max=1,
        context_tokens=context_tokens,
        slots=slots,
        created_at_unix_seconds=0,
        engine_options=options or {},
        cpu_threads=1,
    )


def gguf(path: Path) -> Artifact:
    file = ArtifactFile(path=path.name, sha256="0" * 64, size_bytes=path.stat().st_size)
    return Artifact(format="gguf", files=(file,), sources=(f"file:{path.parent}",), entry=path.name)


@asynccontextmanager
async def running(
    engine: Engine,
    document: DeploymentDocument,
    artifact_path: Path | None = None,
    *,
    start_seconds: float = START_SECONDS,
    refusal: str = "",
) -> AsyncIterator[Replica]:
    """Starts a replica, waits until it is ready, and ends it. One that says `refusal` is waited for no longer."""
    engine.validate(document)
    launch = Launch(replica_id="rep_test", port=free_port(), token="replica-token", artifact_path=artifact_path)
    spec = engine.process_spec(document, launch)
    assert launch.token not in " ".join(spec.argv)
    process = subprocess.Popen(spec.argv, env=os.environ | spec.environment)  # noqa: ASYNC220 - returns at once
    url = f"http://127.0.0.1:{launch.port}"
    headers = {"authorization": f"Bearer {launch.token}"}
    try:
        # No connection is used twice: llama.cpp closes one after a stream, although it says it keeps it.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=60, trust_env=False, limits=limits
        ) as client:
            await _ready(engine, client, launch, process, seconds=start_seconds, refusal=refusal)
            yield Replica(client=client, url=url, token=launch.token, engine=engine, process=process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _ready(
    engine: Engine,
    client: httpx2.AsyncClient,
    launch: Launch,
    process: subprocess.Popen[bytes],
    *,
    seconds: float,
    refusal: str,
) -> None:
    last = Probe(is_ready=False)

    async def is_ready() -> bool:
        nonlocal last
        assert process.poll() is None, f"the replica ended with {process.returncode}"
        last = await engine.probe(client, str(client.base_url).rstrip("/"), launch.token)
        assert not refusal or refusal not in (last.reason or ""), "it never will be ready"
        return last.is_ready

    look: Callable[[], bool | Awaitable[bool]] = is_ready
    try:
        await until_async(look, "the replica is ready", seconds=seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: it {last.reason}") from None
