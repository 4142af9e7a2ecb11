"""What the region service and a runner tell each other: what to run, how it is, how it ended."""

from typing import Literal

import msgspec

from cloudcrest.compute.accelerators.api import ChipUse
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.sandbox.api import Reach

RUNNER_TOKEN_VARIABLE = "CLOUDCREST_RUNNER_TOKEN"  # noqa: S105 - its name, not its value
EndKind = Literal[
    "exit",
    "signal",
    "out_of_memory",
    "time_limit",
    "cancelled",
    "preempted",
    "gang",
    "budget",
    "disk",
    "prepare",
    "lost",
]
StopWhy = Literal["prepare", "time_limit", "cancelled", "preempted", "gang", "budget", "disk", "lost"]
RunnerPhase = Literal["waiting", "preparing", "ready", "running", "ended"]


class Input(msgspec.Struct, frozen=True):
    """A file that is in the work folder before the command starts. `path`: where, relative. From an address (`url`), or
    handed in by the region (`is_handed_in`), which has it in its object store. `sha256`: checked where it is given.
    """

    path: str
    url: str = ""
    is_handed_in: bool = False
    sha256: str = ""


class Mount(msgspec.Struct, frozen=True):
    """A folder that the region's nodes share, seen at `target`: a volume, or the job's checkpoints.

    `variable`: of the command's environment, in which its path is. `quota_bytes`: what may be in it in all; 0 for what
    a reader cannot fill. `is_made`: where it is not there it is made.
    """

    name: str
    source: str
    target: str
    variable: str = ""
    is_writable: bool = False
    quota_bytes: int = 0
    is_made: bool = False


class RunnerSpec(msgspec.Struct, frozen=True):
    """One member of one attempt of a job.

    `outputs`: folders in the work folder whose files are kept. `time_limit_seconds`: of this attempt's run, None for
    none. `grace_seconds`: between SIGTERM and SIGKILL, time for a checkpoint. `secrets` go into the command's
    environment and nowhere else: not to disk, not into a log. `has_whole_chips`: nobody else is on its accelerators, so
    that what they do may be told.
    """

    attempt_id: str
    member: int
    command: tuple[str, ...]
    members: int = 1
    image: str = ""
    environment: dict[str, str] = {}
    secrets: dict[str, str] = {}
    inputs: tuple[Input, ...] = ()
    mounts: tuple[Mount, ...] = ()
    outputs: tuple[str, ...] = ("outputs",)
    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    accelerators: tuple[AcceleratorFacts, ...] = ()
    has_whole_chips: bool = True
    time_limit_seconds: float | None = None
    grace_seconds: float = 30.0
    allowed_hosts: tuple[str, ...] = ()


class End(msgspec.Struct, frozen=True):
    """How a member ended. `message`: a sentence for the job's owner."""

    kind: EndKind
    message: str
    exit_code: int | None = None
    signal: int | None = None


class RunRecord(msgspec.Struct, frozen=True):
    """What is kept on the node's disk of a member's run: real start, last mark, real end, in Unix seconds.

    `started_at` is None where its command never began; then nothing is charged.
    """

    attempt_id: str
    member: int
    started_at: float | None = None
    marked_at: float | None = None
    ended_at: float | None = None
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    end: End | None = None


class MemberNetwork(msgspec.Struct, frozen=True):
    """How a member could reach the others, known when it is ready. `port`: where its runner listens for theirs;
    `problem`: why it could not.
    """

    reach: Reach = "node"
    port: int = 0
    problem: str = ""


class RunnerState(msgspec.Struct, frozen=True):
    """How a runner is. `detail`: what it is doing, in a sentence.

    `needs`: the paths of inputs that it waits to be handed in.
    """

    phase: RunnerPhase
    record: RunRecord
    detail: str = ""
    isolation: str = ""
    needs: tuple[str, ...] = ()
    network: MemberNetwork = MemberNetwork()


class RunnerPlace(msgspec.Struct, frozen=True):
    """Where a runner listens for the others of its attempt."""

    address: str
    port: int


class Gang(msgspec.Struct, frozen=True):
    """The private network of an attempt: the `key` that its runners prove to have, and where they are, in the order of
    their members.
    """

    key: str
    runners: tuple[RunnerPlace, ...]


class Go(msgspec.Struct, frozen=True):
    """Start the command. `environment`: what is known only when every member has its place. `gang`: the network of its
    members, where they have one of their own; `detail`: a sentence on why they cannot reach each other.
    """

    environment: dict[str, str] = {}
    gang: Gang | None = None
    detail: str = ""


class Stop(msgspec.Struct, frozen=True):
    """End the command, and why."""

    why: StopWhy
    message: str


class Sample(msgspec.Struct, frozen=True):
    """What a member had used `seconds` after its start."""

    seconds: float
    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int | None
    sent_bytes: int
    received_bytes: int
    accelerators: tuple[ChipUse, ...] = ()


class MemberMetrics(msgspec.Struct, frozen=True):
    """What a member uses: `seconds` after its start, `cpu_cores` since the measure before, its work folder on disk
    (None: not yet measured), through its proxy, its chips. `history`: the same over its run, where it is asked for.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    cpu_cores: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    disk_bytes: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    accelerators: tuple[ChipUse, ...] = ()
    history: tuple[Sample, ...] = ()


class Output(msgspec.Struct, frozen=True):
    """A file that a member wrote into one of its output folders. `version` changes when the file does."""

    name: str
    size_bytes: int
    version: str


class Outputs(msgspec.Struct, frozen=True):
    """The output files there are. `left_out`: how many more there were than are kept."""

    files: tuple[Output, ...]
    left_out: int = 0
