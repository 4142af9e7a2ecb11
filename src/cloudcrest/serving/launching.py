"""Bringing a replica up in its place: the node prepared, a port, the engine's process."""

import contextlib
import random
import socket
from collections.abc import Callable, Mapping

import msgspec

from cloudcrest.compute.api import Fabric, NodeFacts
from cloudcrest.compute.placement.labels import place_labels
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.serving.engines.api import Engine, Launch
from cloudcrest.serving.places import cores_of
from cloudcrest.serving.preparation import Preparing, Said
from cloudcrest.serving.replicas import Replica, replica_token

_PORTS = (20_000, 32_000)
_PORT_TRIES = 100


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free now at an address of this machine, below those that outgoing connections take.

    A replica that finds it taken nevertheless ends, and is tried again with another.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(_PORT_TRIES):
        port = any_port()
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise Unavailable(f"no port is free at {address} for a replica")


def any_port() -> int:
    """One by chance, of those that replicas listen on."""
    return random.randrange(*_PORTS)  # noqa: S311 - any will do


class Launcher:
    """`preparing` gives what prepares a node. `is_here`: whether a node is the machine of this process. `on_change` is
    called when a replica says something new. `secret`: what replicas' tokens are derived from.
    """

    def __init__(
        self,
        fabric: Fabric,
        engines: Mapping[str, Engine],
        *,
        preparing: Callable[[NodeFacts], Preparing],
        is_here: Callable[[NodeFacts], bool],
        clock: Clock,
        secret: str,
        on_change: Callable[[], None],
    ) -> None:
        self._fabric = fabric
        self._engines = engines
        self._preparing = preparing
        self._is_here = is_here
        self._clock = clock
        self._secret = secret
        self._on_change = on_change

    async def bring_up(self, replica: Replica, node: NodeFacts) -> None:
        """Weights, runtime, process; how far it is shows in the replica. Raises a `CloudcrestError` saying why not."""
        running = replica.running
        assert running is not None  # noqa: S101 - it has its place
        document = replica.document
        engine = self._engines[document.engine]

        def on_progress(said: Said) -> None:
            self._hear(replica, said)

        path = await self._preparing(node).prepare(replica.id, document, engine, on_progress)
        # A process of this id that has ended is still known to the fabric.
        await self._fabric.stop(replica.id)
        replica.address = node.address
        replica.port = free_port(node.address) if self._is_here(node) else any_port()
        launch = Launch(
            replica_id=replica.id,
            port=replica.port,
            token=replica_token(self._secret, replica.id),
            artifact_path=path,
            host=node.address,
            cores=cores_of(running.workload.demand.cpu_milli, node.cpu_milli),
        )
        spec = engine.process_spec(document, launch)
        labels = spec.labels | place_labels(running)
        spot = running.spots[0]
        await self._fabric.start(
            msgspec.structs.replace(spec, labels=labels, node_id=spot.node_id, accelerators=spot.accelerators)
        )

    def _hear(self, replica: Replica, said: Said) -> None:
        """Takes over what the preparation says: first of the weights, then of the runtime."""
        if said.pull is not None:
            replica.pull = said.pull
        if said.doing is not None:
            if replica.phase == "fetching":
                replica.enter("preparing", self._clock.monotonic(), replica.reason)
            replica.reason = said.doing or replica.reason
        self._on_change()
