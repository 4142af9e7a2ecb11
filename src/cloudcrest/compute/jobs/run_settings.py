"""Settings of running jobs in a region. Each is an environment variable CLOUDCREST_JOBS_<NAME IN CAPITALS>."""

from pathlib import Path

import msgspec

from cloudcrest.kernel.units import GIB, MIB


class RunSettings(msgspec.Struct, frozen=True):
    """How a region runs jobs and how patient it is.

    `isolation`: how commands are held; "auto" takes the best that the node has, "plain" holds nothing and is for tests.
    `shared_folder`: where volumes and checkpoints are, the same path on every node; None: in the region's folder.
    `poll_seconds`: how often runners are asked. `collect_seconds`: how often logs and outputs of what runs are
    collected. `charge_seconds`: how often the meter is told. `unanswered_seconds`: how long a runner may be silent
    before it is given up; `lost_seconds`: where its node is lost, too.
    `prepare_most_seconds`: how long inputs may take. `backoff_*`: the wait before another attempt doubles from first to
    most. `losses_most`: how often a job is tried again after its node was lost. `attempts_kept`: of which a job shows
    logs. `output_*`: what is kept of a member's outputs; `project_output_bytes`: of all
    jobs of a project together. `keep_days`: how long logs and outputs stay after the end.
    `volume_bytes`, `project_volumes`: what one volume may hold, and how many a project may have.
    """

    isolation: str = "auto"
    shared_folder: Path | None = None
    poll_seconds: float = 0.5
    collect_seconds: float = 15.0
    charge_seconds: float = 5.0
    unanswered_seconds: float = 30.0
    lost_seconds: float = 3.0
    prepare_most_seconds: float = 3600.0
    backoff_first_seconds: float = 1.0
    backoff_most_seconds: float = 300.0
    losses_most: int = 20
    attempts_kept: int = 10
    output_files_most: int = 1000
    output_bytes_most: int = 5 * GIB
    output_file_bytes_most: int = 512 * MIB
    project_output_bytes: int = 100 * GIB
    keep_days: float = 30.0
    volume_bytes: int = 50 * GIB
    project_volumes: int = 50
