"""What goes out when all that came in has been looked at: chunks of many streams, written one right after the other.

A write wakes whoever reads it, and waking a core that sleeps costs more than all else that a chunk takes. Between two
writes with the work for a chunk in between, readers fall asleep; between two in a row they do not.
"""

import asyncio
from collections.abc import Callable

Write = Callable[[bytes], None]


class Outbox:
    """A worker's. What is in it goes out in the loop's next round, in order."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: list[tuple[Write, bytes]] = []

    def put(self, write: Write, data: bytes) -> None:
        """Has `data` written. Whoever writes to the same client without it is to `flush` before."""
        if not self.held:
            asyncio.get_running_loop().call_soon(self.flush)
        self.held.append((write, data))

    def flush(self) -> None:
        """Writes what is there now."""
        held, self.held = self.held, []
        for write, data in held:
            try:
                write(data)
            except RuntimeError:  # its client left in the same round
                continue
