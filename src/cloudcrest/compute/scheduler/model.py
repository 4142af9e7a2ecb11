"""What the scheduler reasons about: nodes, what is wanted, what runs, and what it decides. Frozen values, no I/O.

Accelerators are counted in thousandths (`milli`): a share of 250 is a quarter of one. Times are seconds of a clock that
the caller chooses and keeps to.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

WHOLE = 1000
"""Thousandths of one accelerator."""
Domain = Literal["node", "rack", "zone"]
RefusalCode = Literal["impossible", "capacity", "quota", "power", "waits_for_preemption"]


class Node(msgspec.Struct, frozen=True):
    """A machine, as it would be empty. Its accelerators are all of one type (None, 0: it has none).

    `memory_bytes` and `cpu_milli`: what may be given out, the system's own share already taken off. `power_watts`: what
    the node draws at rest; each busy accelerator adds its `accelerator_watts`. `price_per_accelerator_second` orders
    types for who wants the cheapest; its unit does not matter. Work that does not tolerate a taint stays off the node;
    a node that is not schedulable (cordoned, not ready) gets nothing new. `disk_bytes`: the size of the disk that jobs
    write to; 0: not known, and no limit.
    """

    id: str
    cpu_milli: int
    memory_bytes: int
    accelerator_type: str | None = None
    accelerators: int = 0
    accelerator_memory_bytes: int = 0
    accelerator_watts: int = 0
    power_watts: int = 0
    disk_bytes: int = 0
    price_per_accelerator_second: float = 0.0
    zone: str = ""
    rack: str = ""
    labels: Mapping[str, str] = {}
    taints: frozenset[str] = frozenset()
    is_schedulable: bool = True


class Demand(msgspec.Struct, frozen=True):
    """What one member of a workload needs of one node.

    `accelerators` × `milli` of each; less than a whole only of a single one. `types`: those that will do, empty for
    any. `accelerator_memory_bytes`: that each accelerator must have, or the share of it where only a part is asked.
    """

    cpu_milli: int
    memory_bytes: int
    accelerators: int = 0
    milli: int = WHOLE
    types: frozenset[str] = frozenset()
    accelerator_memory_bytes: int = 0


class Workload(msgspec.Struct, frozen=True):
    """One thing to place: all its members or none.

    `owner`: the path in the quota tree, organization then project; empty for the cloud's own. Higher `priority` goes
    first and may preempt lower. `is_spot`: anything that is not spot may preempt it, whatever the priority.
    `together`: all members within one such domain. `spread`: as evenly as can be over such domains, counting what runs
    of the same `group`. `labels`: what nodes must have. `zones`: where it may run, empty for anywhere. `prefers`: how
    types that will do are chosen between; `order` is `type_order`. `since`: when it began to wait.
    `is_promised`: a decision before has stopped others for it (`waits_for_preemption`), so it comes first.
    `disk_bytes`: of its node's disk, for each member; no part of its demand, as no packing looks ahead by it.
    """

    id: str
    demand: Demand
    members: int = 1
    owner: tuple[str, ...] = ()
    priority: int = 0
    is_spot: bool = False
    together: Domain | None = None
    spread: Domain | None = None
    group: str = ""
    labels: Mapping[str, str] = {}
    tolerations: frozenset[str] = frozenset()
    zones: frozenset[str] = frozenset()
    prefers: Literal["packing", "cheapest", "order"] = "packing"
    type_order: tuple[str, ...] = ()
    since: float = 0.0
    is_promised: bool = False
    disk_bytes: int = 0


class Spot(msgspec.Struct, frozen=True):
    """A place: a node and the indexes of its accelerators."""

    node_id: str
    accelerators: tuple[int, ...] = ()


class Running(msgspec.Struct, frozen=True):
    """A workload that has its places, a `Spot` a member. `since`: when it got them. `preemption_cost_seconds`: work
    that is lost when it is stopped now (since its last checkpoint), summed over its members. `is_leaving`: it has been
    told to stop, and still has its places.
    """

    workload: Workload
    spots: tuple[Spot, ...]
    since: float
    preemption_cost_seconds: float = 0.0
    is_leaving: bool = False


class Placed(msgspec.Struct, frozen=True):
    """Give the workload these places, a `Spot` a member. They are free now."""

    workload_id: str
    spots: tuple[Spot, ...]


class Preempted(msgspec.Struct, frozen=True):
    """Stop a running workload, so that another can have its place. `reason`: a sentence for its owner."""

    workload_id: str
    by: str
    reason: str


class Refused(msgspec.Struct, frozen=True):
    """Not now, and why in a sentence: "needs 2 × 80 GB free on one node; best node has 1".

    `code`: `impossible` (no node of this cluster, empty, could hold it), `capacity`, `quota`, `power`,
    `waits_for_preemption` (its place is being made free).
    """

    workload_id: str
    code: RefusalCode
    reason: str


class Plan(msgspec.Struct, frozen=True):
    """What to do now. Doing it and asking again converges."""

    placed: tuple[Placed, ...] = ()
    preempted: tuple[Preempted, ...] = ()
    refused: tuple[Refused, ...] = ()
