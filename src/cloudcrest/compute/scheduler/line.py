"""Who is served next.

What is not spot, then spot. Of these for whom room was made; then who claims what he is guaranteed, then who borrows;
then by priority, by how little of its guarantees the organization uses, by age. Whom one may preempt stands behind one
(preempt.py).
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from cloudcrest.compute.scheduler.model import Workload
from cloudcrest.compute.scheduler.quotas import CPU, Owner, QuotaTree, asked_milli

_Kind = tuple[Owner, int, int, frozenset[str], bool]
"""What makes two of a line rank alike but for their age: owner, urgency, amount, types, whether room was made."""
_Rank = tuple[bool, bool, int, float, float, str]


def in_line(waiting: Sequence[Workload], tree: QuotaTree, types: Collection[str]) -> Iterator[Workload]:
    """Who is next, again each time: what was placed changes whose turn it is. `types`: of accelerators there are."""
    for is_spot in (False, True):
        queues: dict[_Kind, deque[Workload]] = {}
        mine = [workload for workload in waiting if workload.is_spot == is_spot]
        for workload in sorted(mine, key=lambda each: (each.since, each.id)):
            kind = (
                workload.owner,
                -workload.priority,
                asked_milli(workload),
                workload.demand.types,
                workload.is_promised,
            )
            queues.setdefault(kind, deque()).append(workload)
        ranks = {kind: _rank(queue[0], tree, types) for kind, queue in queues.items()}
        while ranks:
            best = min(ranks, key=ranks.__getitem__)
            owner = best[0]
            before = tree.changes(owner)
            yield queues[best].popleft()
            if not queues[best]:
                del queues[best], ranks[best]
            stale = [best] if best in ranks else []
            if tree.changes(owner) != before:  # what others use is as it was
                stale = [kind for kind in ranks if kind[0][:1] == owner[:1]]
            for kind in stale:
                ranks[kind] = _rank(queues[kind][0], tree, types)


def _rank(head: Workload, tree: QuotaTree, types: Collection[str]) -> _Rank:
    share = tree.share(head.owner) if head.owner else 0.0
    return not head.is_promised, not claims_its_own(head, tree, types), -head.priority, share, head.since, head.id


def claims_its_own(workload: Workload, tree: QuotaTree, types: Collection[str]) -> bool:
    """Whether some resource that would do is guaranteed to its owner in this amount."""
    if not workload.owner:
        return True
    demand = workload.demand
    resources = (demand.types or types) if demand.accelerators else (CPU,)
    asked = asked_milli(workload)
    return any(tree.claim(workload.owner, resource, asked) == "guaranteed" for resource in resources)
