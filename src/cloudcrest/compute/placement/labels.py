"""What a placed process says of its place in its labels, and what is read from them after a restart. Pure."""

from collections.abc import Mapping

import msgspec

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Running, Spot, Workload


def place_labels(running: Running, member: int = 0) -> dict[str, str]:
    """Labels of one member's process. They say what is taken where, and what its preemption would be decided by."""
    workload, spot = running.workload, running.spots[member]
    return {
        "node": spot.node_id,
        "accelerators": ",".join(map(str, spot.accelerators)),
        "milli": str(workload.demand.milli),
        "cpu": str(workload.demand.cpu_milli),
        "memory": str(workload.demand.memory_bytes),
        "disk": str(workload.disk_bytes),
        "priority": str(workload.priority),
        "spot": str(workload.is_spot).lower(),
        "owner": "/".join(workload.owner),
        "group": workload.group,
        "since": str(running.since),
    }


def running_of(workload_id: str, members: list[Mapping[str, str]]) -> Running | None:
    """A workload as its processes' labels tell of it, a mapping a member. None: they do not.

    What only mattered for the choice of its places (types, labels, spread) is not in them.
    """
    try:
        spots = tuple(Spot(labels["node"], _indexes(labels["accelerators"])) for labels in members)
        first = members[0]
        demand = Demand(
            cpu_milli=int(first["cpu"]),
            memory_bytes=int(first["memory"]),
            accelerators=len(spots[0].accelerators),
            milli=int(first.get("milli", WHOLE)),
        )
        workload = Workload(
            id=workload_id,
            demand=demand,
            members=len(members),
            disk_bytes=int(first.get("disk", 0)),
            owner=tuple(part for part in first["owner"].split("/") if part),
            priority=int(first["priority"]),
            is_spot=first["spot"] == "true",
            group=first["group"],
        )
        return Running(workload, spots, float(first["since"]))
    except (KeyError, ValueError, IndexError):
        return None


def without_accelerators(running: Running) -> Running:
    """The same, taking none of its accelerators: of what was given out twice, one is counted."""
    demand = msgspec.structs.replace(running.workload.demand, accelerators=0, milli=WHOLE)
    workload = msgspec.structs.replace(running.workload, demand=demand)
    return msgspec.structs.replace(
        running, workload=workload, spots=tuple(Spot(each.node_id) for each in running.spots)
    )


def _indexes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
