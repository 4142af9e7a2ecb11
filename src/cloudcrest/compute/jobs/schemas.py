"""What the management API is asked about jobs; `views.py` is what it answers."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cloudcrest.compute.jobs.api import JobDocument, JobInput, JobVolume
from cloudcrest.compute.jobs.service import Priority, Request
from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.volumes.folders import VOLUME_NAME
from cloudcrest.kernel.units import GIB, MIB

MAX_COMMAND_BYTES = 128 * 1024
MAX_ENVIRONMENT_BYTES = 256 * 1024
_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL in it")
    return text


def _relative(path: str) -> str:
    parts = _no_nul(path).split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("is a path inside the work folder: no leading /, no . and no ..")
    return path


def _mountable(path: str) -> str:
    parts = _no_nul(path).split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        raise ValueError("is an absolute path without . and ..")
    if f"/{parts[1]}" in _SYSTEM:
        raise ValueError(f"/{parts[1]} is the system's: choose another, as /data")
    if ":" in path:
        raise ValueError("has no ':' in it")
    return path


def _free_name(name: str) -> str:
    if name.startswith("CLOUDCREST_"):
        raise ValueError("names that begin with CLOUDCREST_ are the cloud's own")
    return name


Identifier = Annotated[str, Field(min_length=1, max_length=64)]
Word = Annotated[str, Field(max_length=MAX_COMMAND_BYTES), AfterValidator(_no_nul)]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024, examples=["outputs"]), AfterValidator(_relative)]
MountPath = Annotated[str, Field(min_length=2, max_length=1024, examples=["/data"]), AfterValidator(_mountable)]
VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", examples=["EPOCHS"]), AfterValidator(_free_name)
]
Value = Annotated[str, Field(max_length=32 * 1024), AfterValidator(_no_nul)]
TypeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", examples=["nvidia-h100-80gb"])]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$", examples=["pypi.org"])]
VolumeName = Annotated[str, Field(pattern=f"^{VOLUME_NAME}$", examples=["datasets"])]


class Body(BaseModel):
    """A request's body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class InputBody(Body):
    """A file that is there when the command starts: from an address, or a file of the project's."""

    path: RelativePath
    url: str = Field(default="", max_length=4096, pattern=r"^(https?://.+)?$", examples=["https://example.com/a.csv"])
    file_id: str = Field(default="", max_length=128, examples=["file_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="It is refused where it is another one")

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if bool(self.url) == bool(self.file_id):
            raise ValueError("give url or file_id")
        return self


class VolumeBody(Body):
    """A volume of the project's, and where the command sees it."""

    name: VolumeName
    target: MountPath
    is_writable: bool = True


class AcceleratorsBody(Body):
    """The accelerators of each member, on one node."""

    count: int = Field(ge=1, le=64, examples=[1])
    milli: int = Field(
        default=WHOLE, ge=1, le=WHOLE, description="Thousandths of each; less than 1000 only of a single one"
    )
    types: list[TypeName] = Field(default=[], max_length=16, description="Any of these; empty: any at all")
    memory_bytes: int = Field(
        default=0, ge=0, le=2**50, description="That each must have; of a share, the share's part"
    )
    prefers: Literal["packing", "cheapest", "order"] = Field(
        default="packing", description="Of several types: what packs best, the cheapest, or the first of `types`"
    )

    @model_validator(mode="after")
    def _a_share_is_of_one(self) -> Self:
        if self.milli < WHOLE and self.count > 1:
            raise ValueError("a share (milli below 1000) is of a single accelerator")
        return self


class CreateJob(Body):
    """A command to run on the cloud's machines, charged by the second from its start to its end."""

    name: str = Field(default="job", min_length=1, max_length=128, examples=["train"])
    project_id: Identifier
    region: str = Field(default="local", min_length=1, max_length=64)
    command: list[Word] = Field(min_length=1, max_length=1024, examples=[["python", "train.py"]])
    image: str = Field(
        default="",
        max_length=512,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:/@-]*)?$",
        description="A container image; empty: the node's own",
    )
    environment: dict[VariableName, Value] = Field(default={}, max_length=256)
    secrets: list[VariableName] = Field(
        default=[], max_length=32, description="Secrets of the project, each in a variable of its name"
    )
    inputs: list[InputBody] = Field(default=[], max_length=256)
    outputs: list[RelativePath] = Field(default=["outputs"], max_length=64, description="Folders that are kept")
    volumes: list[VolumeBody] = Field(default=[], max_length=16)
    cpu_milli: int = Field(default=1000, ge=10, le=1_000_000, description="Thousandths of processors, of each member")
    memory_bytes: int = Field(default=GIB, ge=16 * MIB, le=2**50, description="Of each member")
    disk_bytes: int = Field(default=0, ge=0, le=2**50, description="Of the work folder; 0: the node's own limit")
    accelerators: AcceleratorsBody | None = None
    members: int = Field(default=1, ge=1, le=256, description="Run at once, all or none")
    together: Literal["node", "rack", "zone"] | None = Field(default=None, description="All members in one of these")
    spread: Literal["node", "rack", "zone"] | None = Field(default=None, description="Members evenly over these")
    labels: dict[Label, Label] = Field(default={}, max_length=16, description="That nodes must have")
    zones: list[Label] = Field(default=[], max_length=32, description="Where it may run; empty: anywhere")
    tolerations: list[Label] = Field(default=[], max_length=16)
    has_checkpoints: bool = Field(
        default=False,
        description="It keeps what it needs to go on in $CLOUDCREST_CHECKPOINTS, and finds it there again",
    )
    retries: int = Field(default=0, ge=0, le=100, description="After failures; lost nodes and preemptions do not count")
    time_limit_seconds: float | None = Field(default=None, gt=0, le=365 * 86_400, description="Of all its running time")
    grace_seconds: float = Field(default=30.0, ge=0, le=600, description="Between SIGTERM and SIGKILL")
    priority: Priority = "normal"
    is_spot: bool = Field(default=False, description="May be stopped for anything that is not spot; it goes on later")
    allowed_hosts: list[Host] = Field(default=[], max_length=64, description="What it may connect to; empty: nothing")

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        if sum(len(word.encode()) for word in self.command) > MAX_COMMAND_BYTES:
            raise ValueError(f"command: is over {MAX_COMMAND_BYTES} bytes in all")
        if sum(len(name) + len(value.encode()) for name, value in self.environment.items()) > MAX_ENVIRONMENT_BYTES:
            raise ValueError(f"environment: is over {MAX_ENVIRONMENT_BYTES} bytes in all")
        if both := self.environment.keys() & set(self.secrets):
            raise ValueError(f"secrets: '{min(both)}' is in environment too")
        targets = [volume.target for volume in self.volumes]
        if len(set(targets)) < len(targets):
            raise ValueError("volumes: two of them have one target")
        # What a job wrote into one, a link say, would be walked through on the way to the other.
        outer = [*targets, "/checkpoints", "/work"]
        if nested := [target for target in targets if any(target.startswith(f"{folder}/") for folder in outer)]:
            raise ValueError(f"volumes: '{nested[0]}' is inside another folder of the job: choose one beside it")
        if reserved := [target for target in targets if target in {"/checkpoints", "/work"}]:
            raise ValueError(f"volumes: '{reserved[0]}' is the job's own: choose another, as /data")
        return self

    def request(self) -> Request:
        """The body as the service takes it."""
        wanted = self.accelerators
        wish = JobDocument(
            id="",
            organization_id="",
            project_id=self.project_id,
            region=self.region,
            name=self.name,
            command=tuple(self.command),
            created_at_unix_seconds=0.0,
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            image=self.image,
            environment=dict(self.environment),
            inputs=tuple(JobInput(**each.model_dump()) for each in self.inputs),
            volumes=tuple(JobVolume(**each.model_dump()) for each in self.volumes),
            outputs=tuple(self.outputs),
            has_checkpoints=self.has_checkpoints,
            disk_bytes=self.disk_bytes,
            members=self.members,
            accelerators=0 if wanted is None else wanted.count,
            milli=WHOLE if wanted is None else wanted.milli,
            types=() if wanted is None else tuple(wanted.types),
            accelerator_memory_bytes=0 if wanted is None else wanted.memory_bytes,
            together=self.together,
            spread=self.spread,
            labels=dict(self.labels),
            tolerations=tuple(self.tolerations),
            zones=tuple(self.zones),
            prefers="packing" if wanted is None else wanted.prefers,
            is_spot=self.is_spot,
            retries=self.retries,
            time_limit_seconds=self.time_limit_seconds,
            grace_seconds=self.grace_seconds,
            allowed_hosts=tuple(self.allowed_hosts),
        )
        return Request(wish, self.priority, tuple(dict.fromkeys(self.secrets)))


class SecretBody(Body):
    """The value of a secret."""

    value: str = Field(min_length=1, max_length=32 * 1024)


class PolicyBody(Body):
    """What an organization may run."""

    is_trusted: bool = Field(default=False, description="Its jobs may run on nodes that have no sandbox")
    may_run_high: bool = Field(default=False, description="Its jobs may have high priority")
