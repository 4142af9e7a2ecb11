"""Which replica has seen which prompt prefix: a bounded guess at what the engines hold in their KV caches.

A prompt is a sequence of block hashes, each of which stands for everything up to its end. Replicas are bits of a mask.
"""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Block hashes with their holders; each replica's least recently used blocks go first.

    `max_blocks_per_replica` bounds it: at most that many entries for each replica, some 200 bytes each.
    A prompt's blocks are touched from the last to the first, so a prefix is never forgotten before what follows it:
    whoever holds block i holds all before it, and `match` can skip.
    """

    def __init__(self, max_blocks_per_replica: int) -> None:
        self.max_blocks_per_replica = max_blocks_per_replica
        self._holders: dict[int, int] = {}
        self._recency: dict[int, OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        """Entries held, over all replicas."""
        return sum(map(len, self._recency.values()))

    def blocks_of(self, bit: int) -> int:
        """Entries held for one replica."""
        return len(self._recency.get(bit, ()))

    def insert(self, bit: int, blocks: Sequence[int]) -> None:
        """Replica `bit` is about to hold these blocks. Only the first `max_blocks_per_replica` are kept."""
        order = self._recency.get(bit)
        if order is None:
            order = self._recency[bit] = OrderedDict()
        holders, mask = self._holders, 1 << bit
        if len(blocks) > self.max_blocks_per_replica:
            blocks = blocks[: self.max_blocks_per_replica]
        for block in reversed(blocks):
            if block in order:
                order.move_to_end(block)
            else:
                order[block] = None
                holders[block] = holders.get(block, 0) | mask
        while len(order) > self.max_blocks_per_replica:
            self._let_go(order.popitem(last=False)[0], mask)

    def match(self, blocks: Sequence[int], among: int) -> list[tuple[int, int]]:
        """(leading blocks held, mask of the replicas that hold exactly so many), rising; none for zero blocks.

        `among`: mask of the replicas asked about. Time grows with the number of different depths, and only with the
        logarithm of the prompt's length.
        """
        depth, mask, levels = 0, among, list[tuple[int, int]]()
        while mask and depth < len(blocks):
            depth = self._depth_held_by_all(blocks, depth, mask)
            rest = self._holders.get(blocks[depth], 0) & mask if depth < len(blocks) else 0
            if depth:
                levels.append((depth, mask & ~rest))
            mask = rest
        return levels

    def _depth_held_by_all(self, blocks: Sequence[int], low: int, mask: int) -> int:
        """The first block at or after `low` that not all of `mask` hold: in growing steps, then by halving."""
        get, count, step = self._holders.get, len(blocks), 1
        high = count
        while low < count:
            probe = min(low + step, count) - 1
            if get(blocks[probe], 0) & mask != mask:
                high = probe
                break
            low = probe + 1
            step *= 2
        while low < high:
            middle = (low + high) // 2
            if get(blocks[middle], 0) & mask == mask:
                low = middle + 1
            else:
                high = middle
        return low

    def forget(self, bit: int) -> None:
        """The replica is gone or has lost its cache."""
        for block in self._recency.pop(bit, ()):
            self._let_go(block, 1 << bit)

    def _let_go(self, block: int, mask: int) -> None:
        rest = self._holders[block] & ~mask
        if rest:
            self._holders[block] = rest
        else:
            del self._holders[block]
