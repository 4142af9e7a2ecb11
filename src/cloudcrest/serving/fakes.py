"""Stand-ins for what serving drives: a fabric and an engine without processes, artifacts that come when told to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import httpx2
import msgspec

from cloudcrest.catalog.api import ArtifactFormat, ModelDocument, PullProgress
from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.kernel.errors import CloudcrestError, Unavailable
from cloudcrest.serving.api import DeploymentDocument, EngineName
from cloudcrest.serving.engines.api import TOKEN_VARIABLE, Launch, Probe, check_shape, replica_labels


class FakeFabric:
    """A fabric of processes that run until told otherwise. `failure` set: it cannot be reached. `unstoppable`: the ids
    of processes whose node does not answer.
    """

    def __init__(self) -> None:
        self.specs: dict[str, ProcessSpec] = {}
        self.processes: dict[str, ProcessStatus] = {}
        self.starts: list[str] = []
        self.stops: list[str] = []
        self.failure: CloudcrestError | None = None
        self.unstoppable: set[str] = set()
        self.machines = [NodeFacts(id="local", address="127.0.0.1", cpu_milli=64_000, memory_bytes=1 << 40)]

    async def nodes(self) -> list[NodeFacts]:
        if self.failure is not None:
            raise self.failure
        return list(self.machines)

    async def start(self, spec: ProcessSpec) -> None:
        if self.failure is not None:
            raise self.failure
        process = self.processes.get(spec.id)
        if process is None or process.state == "exited":
            self.starts.append(spec.id)
            self.specs[spec.id] = spec
            self.processes[spec.id] = ProcessStatus(
                id=spec.id, state="running", pid=len(self.starts), labels=dict(spec.labels), node_id=spec.node_id
            )

    async def list(self) -> list[ProcessStatus]:
        if self.failure is not None:
            raise self.failure
        return list(self.processes.values())

    async def stop(self, process_id: str) -> None:
        self.stops.append(process_id)
        if self.failure is not None:
            raise self.failure
        if process_id in self.unstoppable:
            raise Unavailable("its node does not answer")
        self.processes.pop(process_id, None)

    def exit(self, process_id: str, exit_code: int, log_tail: str = "") -> None:
        """Has a process end by itself."""
        process = self.processes[process_id]
        self.processes[process_id] = msgspec.structs.replace(
            process, state="exited", pid=None, exit_code=exit_code, log_tail=log_tail
        )


class FakeArtifacts:
    """An artifact store: gives `path`, or raises `failure` while that is set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: CloudcrestError | None = None
        self.fetched: list[str] = []

    async def fetch(
        self, model: ModelDocument, artifact_format: ArtifactFormat, on_progress: Callable[[PullProgress], None]
    ) -> Path:
        self.fetched.append(f"{model.id}:{artifact_format}")
        on_progress(PullProgress(phase="downloading", done_bytes=1, total_bytes=2))
        if self.failure is not None:
            raise self.failure
        on_progress(PullProgress(phase="ready", done_bytes=2, total_bytes=2))
        return self.path


class FakeEngine:
    """An engine whose replicas are as `probes` says, by url; where it says nothing, as `probe_all`. `launches`: what
    was started, in order.
    """

    name: ClassVar[EngineName] = "llamacpp"
    artifact_format: ClassVar[ArtifactFormat | None] = "gguf"
    start_timeout_seconds: ClassVar[float] = 30.0
    options: ClassVar[Mapping[str, type]] = {}

    def __init__(self) -> None:
        self.probe_all = Probe(is_ready=True, in_flight=0)
        self.probes: dict[str, Probe] = {}
        self.needed_bytes = 1
        self.launches: list[Launch] = []

    def validate(self, deployment: DeploymentDocument) -> None:
        check_shape(deployment, ("chat",))

    async def prepare(self, deployment: DeploymentDocument, on_progress: Callable[[str], None]) -> None:
        """Nothing to make."""

    def memory_bytes(self, _: DeploymentDocument, __: Path | None, /) -> int:
        return self.needed_bytes

    def accelerators(self, _: DeploymentDocument, /) -> int:
        return 0

    def process_spec(self, deployment: DeploymentDocument, launch: Launch) -> ProcessSpec:
        self.launches.append(launch)
        return ProcessSpec(
            id=launch.replica_id,
            argv=("fake-engine", str(launch.artifact_path)),
            environment={TOKEN_VARIABLE: launch.token},
            labels=replica_labels(deployment, launch),
        )

    async def probe(self, _: httpx2.AsyncClient, url: str, __: str, /) -> Probe:
        return self.probes.get(url, self.probe_all)
