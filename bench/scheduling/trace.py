"""Nodes and pods: read from Alibaba's traces, or made.

Source of the traces: openb_node_list_gpu_node.csv and openb_pod_list_*.csv of Alibaba's cluster-trace-gpu-v2023,
through hkust-adsl/kubernetes-scheduler-simulator (Apache-2.0), gzipped or not.
"""

import random
from pathlib import Path

import msgspec

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node
from cloudcrest.compute.simulator.trace import demand_of, read_nodes, rows
from cloudcrest.kernel.units import GIB

NODES = "openb_node_list_gpu_node.csv"
PODS = "openb_pod_list_"
OVERLOAD = 1.3
"""Demands are drawn until they ask for this much of what there is."""


class Workload(msgspec.Struct, frozen=True):
    """Machines, and the demands that a run draws from."""

    name: str
    nodes: tuple[Node, ...]
    demands: tuple[Demand, ...]

    @property
    def capacity(self) -> int:
        """Thousandths of accelerators."""
        return WHOLE * sum(node.accelerators for node in self.nodes)


def size(demand: Demand) -> int:
    """Thousandths of accelerators."""
    return demand.accelerators * demand.milli


def workloads(folder: Path) -> list[str]:
    """The names of the pod lists there."""
    if not (folder / NODES).exists() and not (folder / f"{NODES}.gz").exists():
        return []
    return sorted(path.name.removeprefix(PODS).partition(".")[0] for path in folder.glob(f"{PODS}*.csv*"))


def load(folder: Path, name: str) -> Workload:
    """One workload. Raises `OSError` where it is not there."""
    nodes = read_nodes(_path(folder, NODES))
    demands = [demand_of(row) for row in rows(_path(folder, f"{PODS}{name}.csv"))]
    return Workload(name, tuple(nodes), tuple(demands))


def arrivals(workload: Workload, seed: int) -> list[Demand]:
    """The demands of a run in their order: drawn, or dropped, until they ask for 1.3 times what there is."""
    rng = random.Random(seed)
    most = OVERLOAD * workload.capacity
    demands = list(workload.demands)
    asked = sum(map(size, demands))
    while asked > most:
        index = rng.randrange(len(demands))
        asked -= size(demands[index])
        demands[index] = demands[-1]
        demands.pop()
    while len(demands) >= len(workload.demands):
        demand = workload.demands[rng.randrange(len(workload.demands))]
        if asked + size(demand) > most:
            break
        demands.append(demand)
        asked += size(demand)
    rng.shuffle(demands)
    return demands


def larger(workload: Workload, times: int) -> Workload:
    """The same with so many times the machines."""
    nodes = [msgspec.structs.replace(node, id=f"{node.id}-{copy}") for copy in range(times) for node in workload.nodes]
    return Workload(f"{workload.name} × {times}", tuple(nodes), workload.demands)


MADE = ("made", "made-shares", "made-whole", "made-bound", "made-cpu")


def make(name: str, *, machines: int = 300, pods: int = 2_000) -> Workload:
    """A workload that stands in where there is no trace, and others unlike the traces. The same each time."""
    rng = random.Random(name)
    nodes = [_machine(rng, number) for number in range(machines)]
    return Workload(name, tuple(nodes), tuple(_pod(rng, name) for _ in range(pods)))


_MACHINES = (
    ("T4", 2, 32_000, 128, 6), ("T4", 4, 64_000, 256, 3), ("A10", 4, 64_000, 256, 3), ("A10", 8, 96_000, 384, 2),
    ("H800", 8, 128_000, 1024, 4), ("910B", 8, 192_000, 768, 3), (None, 0, 96_000, 384, 2),
)  # fmt: skip


def _machine(rng: random.Random, number: int) -> Node:
    kind, count, cpu, gib, _ = rng.choices(_MACHINES, [weight for *_, weight in _MACHINES])[0]
    return Node(f"made-{number:04}", cpu, gib * GIB, accelerator_type=kind, accelerators=count)


def _pod(rng: random.Random, name: str) -> Demand:
    """Shares, single accelerators and several, in a mixture of its own for each workload."""
    mixtures = {"made-shares": (8, 1, 1, 1), "made-whole": (1, 4, 5, 1), "made-cpu": (3, 3, 2, 4)}
    kind = rng.choices(("share", "one", "several", "none"), mixtures.get(name, (4, 4, 2, 1)))[0]
    types: frozenset[str] = frozenset()
    if name == "made-bound" and kind != "none" and rng.random() < 0.5:
        types = frozenset(rng.sample(("T4", "A10", "H800", "910B"), rng.choice((1, 1, 2))))
    count = {"share": 1, "one": 1, "several": rng.choice((2, 4, 4, 8)), "none": 0}[kind]
    if types <= {"T4"} and types:
        count = min(count, 4)
    milli = rng.choice((100, 200, 250, 330, 450, 500, 600, 800)) if kind == "share" else WHOLE
    cpu = rng.choice((2_000, 4_000, 8_000, 12_000)) * (max(1, count) if name != "made-cpu" else 2 * max(1, count))
    return Demand(cpu, cpu // 1000 * rng.choice((2, 4, 6)) * GIB, count, milli, types)


def _path(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder / f"{name}.gz"
