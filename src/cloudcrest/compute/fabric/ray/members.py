"""The nodes of a Ray cluster as Ray lists them, and which of them are nodes of ours. Pure."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NODE_LABEL = "cloudcrest.io/node"
"""The label of Ray's that makes one of its nodes ours: what it is called. Ray's own ids change with each start."""
_RAYS_OWN = "ray.io/"


@dataclass(frozen=True)
class Member:
    """A node of the Ray cluster that has an agent. `name` is what we call it, `ray_id` what Ray does."""

    ray_id: str
    name: str
    address: str
    labels: Mapping[str, str]
    is_alive: bool


def member_of(record: Mapping[str, Any]) -> Member | None:
    """One of `ray.nodes()`. None: it has no agent of ours."""
    labels = dict(record.get("Labels") or {})
    name = labels.pop(NODE_LABEL, None)
    if not name:
        return None
    ours = {key: value for key, value in labels.items() if not key.startswith(_RAYS_OWN)}
    return Member(record["NodeID"], name, record["NodeManagerAddress"], ours, bool(record["Alive"]))


@dataclass(frozen=True)
class Chosen:
    """For each name the node that it means now, if any is alive; and those alive whose name another has."""

    by_name: Mapping[str, Member]
    others: tuple[Member, ...]
    dead: Mapping[str, Member]


def choose(members: Iterable[Member], used: Container[str], silent: Container[str]) -> Chosen:
    """Which node each name means. `used`: Ray's ids of those it meant before, which stay unless they are `silent`.

    A node that starts again has a new id, and the old one counts as alive until Ray notices: it is silent by then.
    """
    by_name: dict[str, Member] = {}
    others: list[Member] = []
    dead: dict[str, Member] = {}

    def rank(member: Member) -> tuple[bool, bool, str]:
        return (member.ray_id in silent, member.ray_id not in used, member.ray_id)

    for member in sorted(members, key=rank):
        if not member.is_alive:
            dead[member.name] = member
        elif member.name in by_name:
            others.append(member)
        else:
            by_name[member.name] = member
    return Chosen(by_name, tuple(others), {name: member for name, member in dead.items() if name not in by_name})
