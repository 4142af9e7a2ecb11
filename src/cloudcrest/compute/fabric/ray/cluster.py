"""A real Ray cluster: its nodes, and an actor on each."""

import asyncio
import os
import sys
import threading
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cloudcrest.compute.fabric.client import Exchange
from cloudcrest.compute.fabric.ray.actor import Installation, NodeActor
from cloudcrest.compute.fabric.ray.head_watch import end_with, wait_for
from cloudcrest.compute.fabric.ray.members import Member, member_of
from cloudcrest.compute.fabric.ray.mending import keep_loopback

_CONNECT_SECONDS = 60.0
_EXIT_CODE = 75  # EX_TEMPFAIL
_CALLS_AT_ONCE = 256
_NAMESPACE = "cloudcrest"


class RayCluster:
    """Implements `fabric.Cluster` over the cluster that this process is connected to.

    Actors ask for no resources and are told their node: where things run is decided by our scheduler alone.
    """

    def __init__(self, home: Installation) -> None:
        self._home = home
        # One for all: Ray's head keeps each that it is given.
        self._kind: Any = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=_CALLS_AT_ONCE)(NodeActor)

    async def members(self) -> list[Member]:
        try:
            records = await asyncio.to_thread(ray.nodes)
        except RayError as error:
            raise ConnectionError(_short(error)) from error
        return [member for record in records if (member := member_of(record)) is not None]

    def exchange(self, member: Member) -> Exchange:
        actor: Any = None

        async def send(line: bytes) -> bytes:
            nonlocal actor
            try:
                actor = actor or self._start_actor(member)
                answer: bytes = await actor.call.remote(line)
            except RayError as error:
                if isinstance(error, RayActorError):
                    actor = None  # the next line starts another
                raise ConnectionError(_short(error)) from error
            return answer

        return send

    def _start_actor(self, member: Member) -> Any:
        where = NodeAffinitySchedulingStrategy(member.ray_id, soft=False)
        return self._kind.options(scheduling_strategy=where).remote(self._home)


def connect(address: str, own_address: str) -> None:
    """Connects this process to the cluster whose head is at `address`, through the Ray of this machine.

    Ray may wait for ever for what does not come, so after a minute the process ends; its supervisor tries again. It
    ends with the head, too: there is nothing that it could ask.
    """
    timer = threading.Timer(_CONNECT_SECONDS, os._exit, (_EXIT_CODE,))
    timer.daemon = True
    timer.start()
    wait_for(address)
    keep_loopback()
    sys.argv[0] = "cloudcrest"  # Ray has its workers import from the folder of the program that this names
    ray.init(
        address=address,
        _node_ip_address=own_address,
        namespace=_NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )
    timer.cancel()
    end_with(address)


def _short(error: RayError) -> str:
    """The first line: the rest is about Ray's internals."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
