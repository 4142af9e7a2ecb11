"""What is given out of each node, read from the labels of what runs there. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from cloudcrest.compute.api import NodeAllocation, ProcessStatus
from cloudcrest.compute.scheduler.model import WHOLE


def allocations(processes: Iterable[ProcessStatus]) -> dict[str, NodeAllocation]:
    """By node. Every placed process says what it was given: `cpu` (milli), `memory`, `disk` (bytes), and of which
    accelerators (`accelerators`: "0,2") how many thousandths (`milli`).
    """
    cpu_milli: Counter[str] = Counter()
    memory_bytes: Counter[str] = Counter()
    disk_bytes: Counter[str] = Counter()
    count: Counter[str] = Counter()
    accelerators: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for process in processes:
        if process.state != "running":
            continue
        node_id, labels = process.node_id, process.labels
        count[node_id] += 1
        cpu_milli[node_id] += _number(labels.get("cpu", ""))
        memory_bytes[node_id] += _number(labels.get("memory", ""))
        disk_bytes[node_id] += _number(labels.get("disk", ""))
        for place in labels.get("accelerators", "").split(","):
            if place.isdigit():
                accelerators[node_id][int(place)] += _number(labels.get("milli", "")) or WHOLE
    return {
        node_id: NodeAllocation(
            cpu_milli[node_id],
            memory_bytes[node_id],
            dict(sorted(accelerators[node_id].items())),
            number,
            disk_bytes[node_id],
        )
        for node_id, number in count.items()
    }


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
