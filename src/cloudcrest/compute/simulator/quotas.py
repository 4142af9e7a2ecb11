"""Quotas for a simulation. Pure."""

from collections import Counter
from collections.abc import Sequence

from cloudcrest.compute.scheduler.model import WHOLE, Node
from cloudcrest.compute.scheduler.quotas import CPU, Quota


def equal_parts(nodes: Sequence[Node], organizations: int) -> tuple[Quota, ...]:
    """Each organization is guaranteed an equal part of each type, and of the CPUs, and may borrow the rest."""
    whole: Counter[str] = Counter()
    for node in nodes:
        whole[CPU] += node.cpu_milli
        if node.accelerator_type is not None:
            whole[node.accelerator_type] += node.accelerators * WHOLE
    return tuple(
        Quota((f"org-{number}",), resource, milli // organizations)
        for number in range(organizations)
        for resource, milli in sorted(whole.items())
    )
