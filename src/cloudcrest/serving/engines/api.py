"""The engine protocol: how a deployment becomes a server process that speaks the OpenAI dialect.

An engine is stateless: it checks a deployment, makes its runtime, says how the process is started, and asks a running
one how it is. Everything it starts listens at its node's address and wants `Authorization: Bearer <token>`.

    validate ─► prepare ─► process_spec ─► (the fabric runs it) ─► probe … probe ─► gone
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol

import httpx2
import msgspec

from cloudcrest.catalog.api import Artifact, ArtifactFormat, ModelDocument
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.serving.api import DeploymentDocument, EngineName

TOKEN_VARIABLE = "CLOUDCREST_REPLICA_TOKEN"  # noqa: S105 - the name of a variable, not a token
"""Environment variable with the token that a replica's callers must send."""

MAX_SLOTS = 1024
PROBE_TIMEOUT_SECONDS = 5.0


class EngineSettings(msgspec.Struct, frozen=True):
    """What engines need to know of the machine they run on.

    `runtimes_folder`: where engine runtimes are made. `secrets_path`: the secrets file with the key that opens sealed
    provider keys. `outbound_allowed`: hosts and networks (CIDR) that upstream providers may have although internal.
    """

    runtimes_folder: Path
    secrets_path: Path | None = None
    outbound_allowed: tuple[str, ...] = ()


class Launch(msgspec.Struct, frozen=True):
    """What one replica is started with. `artifact_path` is the entry file (llama.cpp) or lies beside it (vLLM). `host`:
    the address of its node, at which it listens. `cores`: of that node, those it is to compute on.
    """

    replica_id: str
    port: int
    token: str
    artifact_path: Path | None
    host: str = "127.0.0.1"
    cores: int = 1


class Probe(msgspec.Struct, frozen=True):
    """How a replica is. `is_alive`: it answered. `in_flight`: requests it works on, None where unknown.

    `reason` explains not being ready, as what the replica does: "is loading its weights", "did not answer within 5 s".
    """

    is_ready: bool
    is_alive: bool = True
    in_flight: int | None = None
    reason: str | None = None


class Engine(Protocol):
    """One kind of inference server."""

    name: ClassVar[EngineName]
    artifact_format: ClassVar[ArtifactFormat | None]
    """The weights it loads; None when it needs none."""
    start_timeout_seconds: ClassVar[float]
    """How long a process may take from its start to its first ready probe."""
    options: ClassVar[Mapping[str, type]]
    """The engine options it knows, with their types (str, int, float, bool; int is accepted for float)."""

    def validate(self, deployment: DeploymentDocument) -> None:
        """Raises `InvalidInput` with the field's path for a deployment that this engine can never run."""
        ...

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        """Makes the engine's runtime where it has one. Raises `Unavailable` or `SetupError` saying why it cannot."""
        ...

    def memory_bytes(self, deployment: DeploymentDocument, artifact_path: Path | None, /) -> int:
        """An estimate of what one replica needs, in bytes, where the deployment does not say. Without a path: of what
        it needs beside its weights.
        """
        ...

    def accelerators(self, deployment: DeploymentDocument, /) -> int:
        """How many whole accelerators one replica takes, where the deployment does not say."""
        ...

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        """The process that serves this deployment. Secrets travel in its environment, never in its arguments."""
        ...

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str, /) -> Probe:
        """Asks a replica how it is. Never raises for a replica that does not answer: that is a `Probe` too."""
        ...


def find_artifact(model: ModelDocument, artifact_format: ArtifactFormat | None) -> Artifact | None:
    """The model's first artifact of that format."""
    return next((artifact for artifact in model.artifacts if artifact.format == artifact_format), None)


def require_artifact(deployment: DeploymentDocument, artifact_format: ArtifactFormat) -> Artifact:
    """The artifact that the engine loads. Raises `InvalidInput` naming what formats the model has."""
    artifact = find_artifact(deployment.model, artifact_format)
    if artifact is None:
        formats = sorted({artifact.format for artifact in deployment.model.artifacts})
        raise InvalidInput(
            f"engine {deployment.engine} needs {artifact_format} weights, and model '{deployment.model.id}' has "
            f"{', '.join(formats) if formats else 'none'}",
            param="engine",
        )
    return artifact


def check_shape(deployment: DeploymentDocument, tasks: tuple[str, ...]) -> None:
    """What every engine asks of a deployment. Raises `InvalidInput`."""
    if deployment.model.task not in tasks:
        raise InvalidInput(
            f"engine {deployment.engine} serves {', '.join(tasks)}, and model '{deployment.model.id}' is for "
            f"{deployment.model.task}",
            param="engine",
        )
    if not 1 <= deployment.slots <= MAX_SLOTS:
        raise InvalidInput(f"slots must be between 1 and {MAX_SLOTS}", param="slots")
    least = min(1, deployment.model.context_tokens)  # 0: it does not work on tokens
    if not least <= deployment.context_tokens <= deployment.model.context_tokens:
        raise InvalidInput(
            f"model '{deployment.model.id}' was made for {deployment.model.context_tokens} tokens of context, "
            f"and {deployment.context_tokens} were asked for",
            param="context_tokens",
            hint=f"choose between {least} and {deployment.model.context_tokens}",
        )


def check_options(deployment: DeploymentDocument, known: Mapping[str, type]) -> None:
    """Refuses unknown engine options and wrong types. Raises `InvalidInput` with the option's path."""
    for name, value in deployment.engine_options.items():
        path = f"engine_options.{name}"
        wanted = known.get(name)
        if wanted is None:
            hint = f"known: {', '.join(sorted(known))}" if known else None
            raise InvalidInput(f"engine {deployment.engine} has no option '{name}'", param=path, hint=hint)
        is_number = wanted is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not wanted and not is_number:
            raise InvalidInput(f"must be {_TYPE_NAMES[wanted]}", param=path)


def replica_labels(deployment: DeploymentDocument, launch: Launch) -> dict[str, str]:
    """What makes a running replica recognisable to the next region service."""
    return {
        "kind": "replica",
        "deployment": deployment.id,
        "generation": str(deployment.generation),
        "port": str(launch.port),
    }


def own_server(
    module: str,
    arguments: object,
    deployment: DeploymentDocument,
    launch: Launch,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> ProcessSpec:
    """The process of one of our own servers: `python -m <module> <arguments as JSON>`."""
    return ProcessSpec(
        id=launch.replica_id,
        argv=(sys.executable, "-m", f"cloudcrest.serving.engines.{module}", msgspec.json.encode(arguments).decode()),
        environment={TOKEN_VARIABLE: launch.token, **environment},
        labels=replica_labels(deployment, launch),
        stop_grace_seconds=3.0,
    )


async def probe_own_server(client: httpx2.AsyncClient, url: str, token: str) -> Probe:
    """How a replica is whose `/health` tells `in_flight` and `reason`."""
    response, reason = await probe_http(client, url, token)
    if response is None:
        return Probe(is_ready=False, is_alive=False, reason=reason)
    body = response.json()
    return Probe(is_ready=response.status_code == 200, in_flight=body["in_flight"], reason=body.get("reason"))


async def probe_http(
    client: httpx2.AsyncClient, url: str, token: str, path: str = "/health"
) -> tuple[httpx2.Response | None, str]:
    """The answer to a health question, or None and why there is none."""
    try:
        response = await client.get(
            f"{url}{path}", headers={"authorization": f"Bearer {token}"}, timeout=PROBE_TIMEOUT_SECONDS
        )
    except httpx2.TimeoutException:
        return None, f"did not answer within {PROBE_TIMEOUT_SECONDS:.0f} s"
    except httpx2.HTTPError as error:
        return None, f"does not accept connections ({type(error).__name__})"
    return response, ""


_TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
