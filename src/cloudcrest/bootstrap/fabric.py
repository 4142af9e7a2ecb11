"""The fabric process: speaks for every node of a Ray cluster, on the socket where else this machine's agent listens.

It alone loads Ray, and keeps nothing but the nodes' names: when it ends it is started again, and what runs runs on.
"""

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from cloudcrest import __version__
from cloudcrest.bootstrap.settings import FabricProcessSettings
from cloudcrest.bootstrap.settings_file import read_settings
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.ray.actor import Installation
from cloudcrest.compute.fabric.ray.fabric import RayFabric
from cloudcrest.infra.logs import configure_logs
from cloudcrest.kernel.clock import SystemClock

_log = structlog.get_logger(__name__)


def process(settings_path: Path) -> Coroutine[Any, Any, None]:
    """The fabric of these settings, to be run on an event loop."""
    settings = read_settings(settings_path, FabricProcessSettings)
    configure_logs("fabric", json=settings.log.json, level=settings.log.level)
    return run(settings)


async def run(settings: FabricProcessSettings) -> None:
    """Serves until it is ended. Raises what Ray does where it cannot be reached."""
    from cloudcrest.compute.fabric.ray.cluster import RayCluster, connect

    # Blocks: until there is Ray there is nothing to do.
    connect(settings.ray_address, settings.node_address)
    home = Installation(__version__, sys.executable, str(settings.data_folder))
    fabric = RayFabric(RayCluster(home), settings.known_path, clock=SystemClock())
    agent = NodeAgent(fabric, settings.node_socket)
    await agent.start()
    _log.info("fabric_ready", ray=settings.ray_address)
    try:
        await fabric.run()
    finally:
        await agent.close()
