"""What the control plane keeps of nodes and racks, as plain values."""

from datetime import datetime
from typing import Literal

import msgspec

from cloudcrest.compute.api import NodeDocument, NodeSettings, NodeStatus, RackDocument

NodeState = Literal["ready", "not_ready", "cordoned", "draining", "gone", "unknown"]


class KnownNode(msgspec.Struct, frozen=True):
    """A node that a region reports or has reported. `gone_since`: it is no longer among those reported."""

    id: str
    region: str
    node_id: str
    settings: NodeSettings
    status: NodeStatus
    created_at: datetime
    changed_at: datetime
    gone_since: datetime | None = None

    def document(self) -> NodeDocument:
        """What its region is told."""
        return NodeDocument(id=self.id, node_id=self.node_id, **msgspec.structs.asdict(self.settings))

    def state(self, *, is_connected: bool) -> NodeState:
        """How it is; nobody knows where its region is cut off."""
        if self.gone_since is not None:
            return "gone"
        if not is_connected:
            return "unknown"
        if not self.status.facts.is_ready:
            return "not_ready"
        if self.settings.is_draining:
            return "draining"
        return "cordoned" if self.settings.is_cordoned else "ready"


class Rack(msgspec.Struct, frozen=True):
    """A rack whose nodes may draw so much together. `zone` is empty where they are in none."""

    id: str
    region: str
    zone: str
    name: str
    power_limit_watts: int
    created_at: datetime

    def document(self) -> RackDocument:
        """What its region is told."""
        return RackDocument(self.name, self.power_limit_watts, self.zone)
