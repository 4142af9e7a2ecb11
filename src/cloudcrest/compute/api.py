"""The public face of compute: the fabric, where processes run.

`local` starts them on this machine through the node agent, which is the process that `cloudcrest up` is; they live
exactly as long as that process, so they outlive the region service that asked for them and are adopted by the next.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from cloudcrest.compute.scheduler.model import Plan, Running, Workload

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

NODE_KIND = "node"
RACK_KIND = "rack"
ACCELERATOR_TYPE_KIND = "accelerator_type"
"""Kinds of documents that the control plane publishes: `NodeDocument`, `RackDocument`, `AcceleratorType`."""
NODES_PATH = "/internal/v1/nodes"
"""`PUT`: a region's report of all its nodes, a list of `NodeStatus`, on change and at least every half minute."""


class ProcessSpec(msgspec.Struct, frozen=True):
    """A process to run. `id` names it and its log file; `labels` come back with its status, for adoption.

    `environment` is added to the agent's own. `stop_grace_seconds`: between SIGTERM and SIGKILL. `node_id`: where to
    run it (empty: on the node that is asked). `accelerators`: those it may see, counted from 0 among those that the
    node gives out (`accelerators/given_out.py`); others are hidden.
    """

    id: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    stop_grace_seconds: float = 5.0
    node_id: str = ""
    accelerators: tuple[int, ...] = ()


class ProcessStatus(msgspec.Struct, frozen=True):
    """A process the fabric knows. Exited ones stay listed until they are removed.

    `exit_code` is negative for a signal, as in `subprocess`. `log_tail` is the end of its output, for the reason.
    `address`: at which its ports are reached from this region's processes.
    """

    id: str
    state: Literal["running", "exited"]
    pid: int | None
    labels: dict[str, str]
    exit_code: int | None = None
    log_tail: str = ""
    node_id: str = ""
    address: str = "127.0.0.1"


class AcceleratorFacts(msgspec.Struct, frozen=True):
    """One accelerator of a node, as its vendor's tools tell. `type` is a name of the catalog of accelerator types
    ("nvidia-h100-80gb"); `index` is what its vendor calls it.
    """

    index: int
    family: str
    type: str
    name: str
    memory_bytes: int
    uuid: str = ""


class NodeFacts(msgspec.Struct, frozen=True):
    """A node, as its agent sees its machine. `labels` (zone and rack among them) are those it was started with.

    `id` stays the same when the node comes back: operators' settings hang on it. `cpu_model`: what its processor is
    called, empty where that is not known. `disk_bytes`: the size of the disk that jobs write to, 0 where that is not
    known; `disk_room_bytes`: what may be promised to jobs of it in all, those that run too.
    """

    id: str
    address: str
    cpu_milli: int
    memory_bytes: int
    accelerators: tuple[AcceleratorFacts, ...] = ()
    labels: dict[str, str] = {}
    is_ready: bool = True
    reason: str | None = None
    cpu_model: str = ""
    disk_bytes: int = 0
    disk_room_bytes: int = 0


class NodeAllocation(msgspec.Struct, frozen=True):
    """What is given out of a node. `accelerators_milli`: thousandths by the place among those it gives out."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    accelerators_milli: dict[int, int] = {}
    processes: int = 0
    disk_bytes: int = 0


class NodeStatus(msgspec.Struct, frozen=True):
    """What a region reports of a node: `PUT /internal/v1/nodes`, all of its nodes each time."""

    facts: NodeFacts
    allocated: NodeAllocation = NodeAllocation()


class NodeSettings(msgspec.Struct, frozen=True):
    """What an operator sets of a node.

    `labels` are added to those it was started with and win; `zone` and `rack` do so, too (None: as it was started).
    `power_watts`: what it draws at rest. `is_cordoned`: it gets nothing new; `is_draining`: what runs there moves
    away. `reserved_…`: what is not given out (None: a default).
    """

    labels: dict[str, str] = {}
    taints: tuple[str, ...] = ()
    zone: str | None = None
    rack: str | None = None
    power_watts: int | None = None
    is_cordoned: bool = False
    is_draining: bool = False
    reserved_cpu_milli: int | None = None
    reserved_memory_bytes: int | None = None


class NodeDocument(NodeSettings, frozen=True, kw_only=True):
    """What is set of a node, published to its region. `node_id` is what the fabric calls it."""

    id: str
    node_id: str


class RackDocument(msgspec.Struct, frozen=True):
    """What the nodes of a rack may draw together, published to its region. Racks are told apart by their zones too."""

    name: str
    power_limit_watts: int
    zone: str = ""


class AcceleratorType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kind of accelerator. What is not known is None or left out; `sources` say where the figures are from.

    `names`: what vendors' tools call it, without regard to case. `peak_tflops` by dtype, dense: 10¹² operations a
    second. `bandwidth_bytes_per_second`: of its memory. `interconnect_bytes_per_second`: to its neighbours, both ways
    together. `power_watts`: what one draws at most. `engines` and `dtypes`: those that run on it.
    """

    id: str
    family: str
    name: str
    memory_bytes: int
    names: tuple[str, ...] = ()
    peak_tflops: dict[str, float] = {}
    bandwidth_bytes_per_second: int | None = None
    interconnect: str | None = None
    interconnect_bytes_per_second: int | None = None
    power_watts: int | None = None
    engines: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class AcceleratorPrices(Protocol):
    """What accelerators cost, as rate cards say it."""

    async def per_accelerator_second(
        self, session: "AsyncSession", types: Sequence[str]
    ) -> dict[str, dict[str, Decimal]]:
        """What a second of one costs now, by type and then by currency; types without a price are left out."""
        ...


class Fabric(Protocol):
    """Nodes, and the processes on them. Calls raise `Unavailable` when the fabric cannot be reached."""

    async def nodes(self) -> list[NodeFacts]:
        """Every node there is; one that was lost stays listed, not ready, for as long as the fabric knows of it."""
        ...

    async def start(self, spec: ProcessSpec) -> None:
        """Starts it; the same id again while it runs is not an error and changes nothing."""
        ...

    async def list(self) -> list[ProcessStatus]:
        """Every process started and not yet removed."""
        ...

    async def stop(self, process_id: str) -> None:
        """Asks it to end, kills it after its grace, forgets it; returns when it is gone. Unknown ids are no error."""
        ...


class Placer(Protocol):
    """Gives places to what waits, for every source ("serving", "jobs") at once: one queue, one quota tree.

    A source offers what waits, reads its `news`, carries it out and releases what has ended. After a restart it adopts
    what it finds running before it asks for its news: nothing is given out until every source that watches has asked
    once, as what runs unseen would be given out twice. Nothing here waits or fails; `watch` tells of news.
    """

    def watch(self, source: str, on_news: Callable[[], None]) -> None:
        """Calls `on_news` (from the event loop) whenever there is something new for this source."""
        ...

    def offer(self, source: str, workload: Workload) -> None:
        """This waits from now on; the same id again replaces what it was. One that has its places keeps them."""
        ...

    def adopt(self, source: str, running: Running) -> None:
        """This has its places already."""
        ...

    def saved(self, source: str, workload_id: str, at: float) -> None:
        """Its work up to `at` (Unix seconds) is kept: what is lost where it is stopped counts from there on."""
        ...

    def release(self, source: str, workload_id: str) -> None:
        """This waits no longer, or no longer needs its places: its processes are gone. Unknown ids are no error."""
        ...

    def news(self, source: str) -> Plan:
        """What holds now of this source's: `placed`, those that have their places and are not released; `preempted`,
        those of them that are to leave: for another, which gets their place, or as their node is being drained (`by`
        is empty then, and there is time); `refused`, why those that wait do.
        """
        ...

    def node(self, node_id: str) -> NodeFacts | None:
        """What was last heard of a node. None: it is gone, or nothing has been heard of any yet."""
        ...

    def is_lost(self, node_id: str) -> bool:
        """Whether a node has been gone or not ready for so long that what ran there is given up."""
        ...
