"""The public face of compute: the fabric, where processes run.

`local` starts them on this machine through the node agent, which is the process that `cloudcrest up` is; they live
exactly as long as that process, so they outlive the region service that asked for them and are adopted by the next.
"""

from typing import Literal, Protocol

import msgspec


class ProcessSpec(msgspec.Struct, frozen=True):
    """A process to run. `id` names it and its log file; `labels` come back with its status, for adoption.

    `environment` is added to the agent's own. `stop_grace_seconds`: between SIGTERM and SIGKILL.
    """

    id: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    stop_grace_seconds: float = 5.0


class ProcessStatus(msgspec.Struct, frozen=True):
    """A process the fabric knows. Exited ones stay listed until they are removed.

    `exit_code` is negative for a signal, as in `subprocess`. `log_tail` is the end of its output, for the reason.
    """

    id: str
    state: Literal["running", "exited"]
    pid: int | None
    labels: dict[str, str]
    exit_code: int | None = None
    log_tail: str = ""


class Fabric(Protocol):
    """Starts, lists and stops processes. Calls raise `Unavailable` when the fabric cannot be reached."""

    async def start(self, spec: ProcessSpec) -> None:
        """Starts it; the same id again while it runs is not an error and changes nothing."""
        ...

    async def list(self) -> list[ProcessStatus]:
        """Every process started and not yet removed."""
        ...

    async def stop(self, process_id: str) -> None:
        """Asks it to end, kills it after its grace, forgets it; returns when it is gone. Unknown ids are no error."""
        ...
