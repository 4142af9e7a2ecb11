"""What is left in volumes for the uploads that are under way at once, in one process."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from cloudcrest.kernel.errors import TooLarge
from cloudcrest.kernel.units import format_bytes


@dataclass
class _Volume:
    held_bytes: int = 0
    arriving_bytes: int = 0
    committed_bytes: int = 0
    uploads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Rooms:
    """The volumes that something is uploaded to now. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._volumes: dict[Hashable, _Volume] = {}

    def enter(self, name: Hashable, quota_bytes: int, measure: Callable[[], int]) -> "Room":
        """Begins an upload. `measure`: what the volume holds; it takes a while, and others go on meanwhile."""
        with self._lock:
            volume = self._volumes.setdefault(name, _Volume())
            volume.uploads += 1
        room = Room(volume, quota_bytes, lambda: self._leave(name, volume))
        try:
            with volume.lock:
                before = volume.committed_bytes
            held = measure()
        except BaseException:
            room.leave()
            raise
        with volume.lock:
            # What was put in its place while it was measured may not have been seen.
            volume.held_bytes = held + volume.committed_bytes - before
        return room

    def _leave(self, name: Hashable, volume: _Volume) -> None:
        with self._lock:
            volume.uploads -= 1
            if volume.uploads == 0:
                del self._volumes[name]


class Room:
    """One upload's part."""

    def __init__(self, volume: _Volume, quota_bytes: int, left: Callable[[], None]) -> None:
        self._volume = volume
        self._quota_bytes = quota_bytes
        self._left = left
        self._taken_bytes = 0
        self._is_over = False

    def take(self, size_bytes: int) -> None:
        """Before so much more is written. Raises `TooLarge` where the volume has no room for all that arrives."""
        with self._volume.lock:
            if self._volume.held_bytes + self._volume.arriving_bytes + size_bytes > self._quota_bytes:
                raise TooLarge(
                    f"the volume may hold {format_bytes(self._quota_bytes)} in all, with what is being uploaded",
                    hint="delete something in it",
                )
            self._volume.arriving_bytes += size_bytes
        self._taken_bytes += size_bytes

    def keep(self) -> None:
        """What was taken is in the volume now."""
        with self._volume.lock:
            self._volume.arriving_bytes -= self._taken_bytes
            self._volume.held_bytes += self._taken_bytes
            self._volume.committed_bytes += self._taken_bytes
        self._taken_bytes = 0

    def leave(self) -> None:
        """The upload is over; again changes nothing. What was taken and is not kept is free for others."""
        if self._is_over:
            return
        self._is_over = True
        with self._volume.lock:
            self._volume.arriving_bytes -= self._taken_bytes
        self._left()
