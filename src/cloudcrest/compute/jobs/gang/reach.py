"""Whether the members of an attempt can reach each other: by what each of their runners has found. Pure."""

from collections.abc import Sequence

from cloudcrest.compute.jobs.running import MemberNetwork
from cloudcrest.compute.sandbox.api import Reach

_CANNOT = "its members cannot connect to each other"


def reach_of(networks: Sequence[MemberNetwork]) -> tuple[Reach, str]:
    """How all of them can, and why they cannot, in a sentence. They need to be alike: a network of their own leads
    nowhere else, and their nodes' is not in it.
    """
    if len(networks) == 1:
        return "node", ""
    for number, network in enumerate(networks):
        if network.reach == "none":
            return "none", f"{_CANNOT}: member {number}: {network.problem}"
    if len({network.reach for network in networks}) > 1:
        return "none", f"{_CANNOT}: some are held by a sandbox and some are not"
    return networks[0].reach, ""
