"""Clusters and jobs to simulate: from files of public traces, or made from a few words.

    openb_node_list_*.csv   nodes of Alibaba's cluster-trace-gpu-v2023: sn, cpu_milli, memory_mib, gpu, model
    openb_pod_list_*.csv    its pods: cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec, creation_ and deletion_time
    arrival_time,length,cpus   in hours, as GAIA has Alibaba's PAI and Azure's traces (umassos/GAIA)
    8xnvidia-h100-80gb:8    eight nodes with eight of these each; 16xcpu:64:256 sixteen with 64 CPUs and 256 GiB

Files may be gzipped.
"""

import csv
import gzip
import io
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from cloudcrest.compute.api import AcceleratorType
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Node, Workload
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import GIB, MIB

HOUR = 3600.0
_MADE = re.compile(r"(\d{1,6})x([a-z0-9][a-z0-9._-]{0,63})(?::(\d{1,4}))?(?::(\d{1,5}))?(?::(\d{1,6}))?")
_CPUS_AN_ACCELERATOR, _GIB_AN_ACCELERATOR = 16, 128


class Job(msgspec.Struct, frozen=True):
    """One job of a trace: when it comes and how long it runs, in seconds."""

    arrives: float
    seconds: float
    demand: Demand


class Mixture(msgspec.Struct, frozen=True):
    """What a trace does not tell: how many organizations there are, and which part of the jobs is spot."""

    organizations: int = 4
    spot_share: float = 0.3
    seed: int = 0


def read_nodes(path: Path) -> list[Node]:
    """The nodes of a file. Raises `InvalidInput` and `OSError`."""
    return [
        Node(
            id=row["sn"],
            cpu_milli=int(row["cpu_milli"]),
            memory_bytes=int(row["memory_mib"]) * MIB,
            accelerator_type=row["model"] or None,
            accelerators=int(row["gpu"]),
        )
        for row in rows(path, {"sn", "cpu_milli", "memory_mib", "gpu", "model"})
    ]


def made_nodes(words: str, types: Mapping[str, AcceleratorType]) -> list[Node]:
    """Nodes from words such as `8xnvidia-h100-80gb:8,4xcpu:64:256`. Raises `InvalidInput`."""
    nodes: list[Node] = []
    for part in words.split(","):
        found = _MADE.fullmatch(part.strip())
        if found is None:
            raise InvalidInput(f"'{part}' is no kind of node", hint="write 8xnvidia-h100-80gb:8 or 16xcpu:64:256")
        count, kind = int(found[1]), found[2]
        numbers = [int(number) for number in found.groups()[2:] if number is not None]
        for number in range(count):
            nodes.append(_node(f"{kind}-{len(nodes) + number:05}", kind, numbers, types))
    return [msgspec.structs.replace(node, id=f"node-{number:05}") for number, node in enumerate(nodes)]


def read_jobs(path: Path, limit: int | None = None) -> list[Job]:
    """The jobs of a file, in the order in which they come. Raises `InvalidInput` and `OSError`."""
    found = rows(path)
    if not found:
        raise InvalidInput(f"{path} has no jobs")
    if {"arrival_time", "length", "cpus"} <= found[0].keys():
        jobs = [_gaia(row) for row in found]
    elif {"cpu_milli", "memory_mib", "num_gpu", "gpu_milli"} <= found[0].keys():
        jobs = [job for row in found if (job := _openb(row)) is not None]
    else:
        raise InvalidInput(f"{path} is no trace that is known here: {', '.join(list(found[0])[:8])}")
    jobs.sort(key=lambda job: job.arrives)
    return jobs[:limit]


def demand_of(row: Mapping[str, str]) -> Demand:
    """What a pod of `openb_pod_list_*.csv` asks for."""
    count = int(row["num_gpu"])
    named = row.get("gpu_spec") or ""
    return Demand(
        cpu_milli=int(row["cpu_milli"]),
        memory_bytes=int(row["memory_mib"]) * MIB,
        accelerators=count,
        milli=int(row["gpu_milli"]) if count == 1 else WHOLE,
        types=frozenset(named.split("|")) if named else frozenset(),
    )


def workloads(jobs: Sequence[Job], mixture: Mixture) -> Iterator[tuple[Job, Workload]]:
    """Each job with an owner and a class, the same for the same seed."""
    rng = random.Random(mixture.seed)  # noqa: S311 - a simulation
    for number, job in enumerate(jobs):
        owner = f"org-{rng.randrange(max(1, mixture.organizations))}"
        is_spot = rng.random() < mixture.spot_share
        yield job, Workload(f"job-{number:06}", job.demand, owner=(owner, "p"), is_spot=is_spot, since=job.arrives)


def _node(name: str, kind: str, numbers: Sequence[int], types: Mapping[str, AcceleratorType]) -> Node:
    if kind == "cpu":
        cpus, gib = [*numbers, *(16, 64)[len(numbers) :]][:2]
        return Node(name, cpus * 1000, gib * GIB)
    known = types.get(kind)
    if known is None:
        raise InvalidInput(f"there is no accelerator type '{kind}'", hint="see `cloudcrest accelerators list`")
    count, cpus, gib = [*numbers, *(8, 0, 0)[len(numbers) :]][:3]
    return Node(
        name,
        (cpus or count * _CPUS_AN_ACCELERATOR) * 1000,
        (gib or count * _GIB_AN_ACCELERATOR) * GIB,
        accelerator_type=kind,
        accelerators=count,
        accelerator_memory_bytes=known.memory_bytes,
    )


def _gaia(row: Mapping[str, str]) -> Job:
    cpus = float(row["cpus"])
    demand = Demand(cpu_milli=round(cpus * 1000), memory_bytes=round(cpus * GIB))
    return Job(float(row["arrival_time"]) * HOUR, float(row["length"]) * HOUR, demand)


def _openb(row: Mapping[str, str]) -> Job | None:
    begins, ends = row.get("creation_time") or "", row.get("deletion_time") or ""
    if not begins or not ends or float(ends) <= float(begins):
        return None
    return Job(float(begins), float(ends) - float(begins), demand_of(row))


def rows(path: Path, needed: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a table, gzipped or not. Raises `InvalidInput` where columns are missing."""
    data = path.read_bytes()
    text = gzip.decompress(data).decode() if data[:2] == b"\x1f\x8b" else data.decode()
    found = list(csv.DictReader(io.StringIO(text)))
    missing = sorted(set(needed) - set(found[0] if found else ()))
    if missing:
        raise InvalidInput(f"{path} has no columns {', '.join(missing)}")
    return found
