"""The shapes of what a region was asked for lately: what its packing looks ahead by, kept over restarts."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from cloudcrest.compute.scheduler.model import Demand
from cloudcrest.infra.files import write_atomic

MAX_SHAPES = 2_000
_log = structlog.get_logger(__name__)


class ShapeHistory:
    """The last `MAX_SHAPES` demands, oldest first; a file of them at `path` (None: they are forgotten)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._demands: deque[Demand] = deque(_load(path) if path is not None else (), maxlen=MAX_SHAPES)
        self.is_saved = True

    def __iter__(self) -> Iterator[Demand]:
        return iter(self._demands)

    def add(self, demand: Demand) -> None:
        """Remembers one more."""
        self._demands.append(demand)
        self.is_saved = self._path is None

    def save(self) -> None:
        """Writes them all. Raises `SetupError` and `OSError` where the disk cannot take them."""
        if self._path is not None:
            write_atomic(self._path, msgspec.json.encode(list(self._demands), order="deterministic"))
        self.is_saved = True


def _load(path: Path) -> list[Demand]:
    """What was kept; nothing where there is nothing that this version can read: then the region learns anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Demand])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("shapes_not_read", path=str(path), error=str(error))
        return []
