"""What an operator may set of placement: apart, so that processes that only pass it on load no scheduler."""

import msgspec


class PlacementSettings(msgspec.Struct, frozen=True):
    """Read from CLOUDCREST_PLACEMENT_….

    `nodes_seconds`: how often the fabric is asked for its nodes. `debounce_seconds`: how long a decision waits for more
    to come. `again_seconds`: how often what waits is looked at although nothing has happened. `lost_seconds`: for how
    long a node may be away before what ran there is given up; over Ray 10.
    """

    nodes_seconds: float = 1.0
    debounce_seconds: float = 0.02
    again_seconds: float = 5.0
    lost_seconds: float = 3.0
