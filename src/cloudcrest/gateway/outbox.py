"""What goes out when all that came in has been looked at: chunks of many streams, written one right after the other.

A write wakes whoever reads it, and waking a core that sleeps costs more than all else that a chunk takes. Between two
writes with the work for a chunk in between, readers fall asleep; between two in a row they do not.
"""

import asyncio
from collections.abc import Callable

Write = Callable[[bytes], None]


FEW = 3
TRY_AGAIN_AFTER = 15


class Outbox:
    """A worker's. What is in it goes out in the loop's next round, in order.

    Where rounds bring less than `FEW`, the next `TRY_AGAIN_AFTER` go out at once: another round costs something, too.
    """

    __slots__ = ("_at_once", "_held")

    def __init__(self) -> None:
        self._held: list[tuple[Write, bytes]] = []
        self._at_once = 0

    def put(self, write: Write, data: bytes) -> None:
        """Has `data` written. Whoever writes to the same peer without it is to `flush` before."""
        if self._held:
            self._held.append((write, data))
        elif self._at_once:
            self._at_once -= 1
            write(data)
        else:
            asyncio.get_running_loop().call_soon(self.flush)
            self._held.append((write, data))

    def flush(self) -> None:
        """Writes what is there now."""
        held, self._held = self._held, []
        if 0 < len(held) < FEW:
            self._at_once = TRY_AGAIN_AFTER
        for write, data in held:
            try:
                write(data)
            except RuntimeError:  # its client left in the same round
                continue
