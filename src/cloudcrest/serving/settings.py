"""Settings of serving in a region. Each is an environment variable CLOUDCREST_SERVING_<NAME IN CAPITALS>."""

import msgspec


class ServingSettings(msgspec.Struct, frozen=True):
    """How the controller watches replicas and how patient it is.

    `poll_seconds`: how often the fabric is asked for exits. `starting_probe_seconds`, `ready_probe_seconds`: how often
    a replica is asked how it is. `unanswered_probes`: how many questions in a row a ready replica may leave unanswered.
    `backoff_*`: the wait before a restart doubles from first to most, and is forgotten once a replica has been healthy
    for `healthy_after_seconds`. `drain_*`: a drained replica is stopped once idle, but not before the least (gateways
    must have heard that it is gone) and not after the most. `replica_priority`: of a replica among jobs, which wait for
    it and make room for it where theirs is lower. `replica_cpu_milli`: what is kept for one where its deployment says
    nothing; more than that is shared.
    """

    poll_seconds: float = 0.1
    starting_probe_seconds: float = 0.1
    ready_probe_seconds: float = 2.0
    unanswered_probes: int = 3
    backoff_first_seconds: float = 1.0
    backoff_most_seconds: float = 60.0
    healthy_after_seconds: float = 60.0
    drain_least_seconds: float = 1.0
    drain_most_seconds: float = 120.0
    replica_priority: int = 1_000_000
    replica_cpu_milli: int = 50
