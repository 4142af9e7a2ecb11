"""An upstream provider: any OpenAI-compatible service behind one of our model names. No weights, no chip of ours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from cloudcrest.catalog.api import ArtifactFormat
from cloudcrest.compute.api import ProcessSpec
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import MIB
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.api import (
    Launch,
    Probe,
    check_options,
    check_shape,
    own_server,
    probe_own_server,
)

SEALED_KEY_VARIABLE = "CLOUDCREST_UPSTREAM_KEY_SEALED"
"""Environment variable with the provider's key, sealed; the replica opens it with the secrets file."""
_MAX_URL_CHARACTERS = 500


class UpstreamArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one forwarding replica is started with. `base_url` ends before `/chat/completions`."""

    alias: str
    host: str
    port: int
    slots: int
    base_url: str
    model: str
    secrets_path: str | None = None
    outbound_allowed: tuple[str, ...] = ()


class UpstreamEngine:
    """`upstream_server.py` in a process of its own, so that a provider's stall never touches a gateway."""

    name: ClassVar[EngineName] = "upstream"
    artifact_format: ClassVar[ArtifactFormat | None] = None
    start_timeout_seconds: ClassVar[float] = 60.0
    options: ClassVar[Mapping[str, type]] = {"base_url": str, "model": str, "api_key": str, "takes_marks": bool}

    def __init__(self, secrets_path: Path | None, outbound_allowed: tuple[str, ...] = ()) -> None:
        self._secrets_path = secrets_path
        self._outbound_allowed = outbound_allowed

    def validate(self, deployment: DeploymentDocument) -> None:
        """Addresses are judged when the replica connects, because names may change what they point to."""
        check_shape(deployment, ("chat", "completion", "embedding", "rerank", "image"))
        check_options(deployment, self.options)
        base_url = deployment.engine_options.get("base_url")
        path = "engine_options.base_url"
        if not isinstance(base_url, str):
            raise InvalidInput(
                "an upstream deployment needs the provider's address",
                param=path,
                hint="for example https://api.example.com/v1",
            )
        try:
            parts = urlsplit(base_url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address or len(base_url) > _MAX_URL_CHARACTERS:
            raise InvalidInput("must be an http or https address", param=path)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InvalidInput("must not hold credentials, a query or a fragment", param=path, hint="use api_key")

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        """Nothing to make."""

    def memory_bytes(self, _: DeploymentDocument, __: Path | None, /) -> int:
        return 64 * MIB

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        options = deployment.engine_options
        arguments = UpstreamArguments(
            alias=deployment.model_name,
            host=launch.host,
            port=launch.port,
            slots=deployment.slots,
            base_url=str(options["base_url"]).rstrip("/"),
            model=str(options.get("model") or deployment.model.id),
            secrets_path=str(self._secrets_path) if self._secrets_path else None,
            outbound_allowed=self._outbound_allowed,
        )
        environment = {SEALED_KEY_VARIABLE: str(options["api_key"])} if options.get("api_key") else {}
        return own_server("upstream_server", arguments, deployment, launch, environment)

    async def probe(self, client: httpx2.AsyncClient, url: str, token: str) -> Probe:
        return await probe_own_server(client, url, token)
