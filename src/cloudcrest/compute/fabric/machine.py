"""This machine as a node: what it is called and what it has."""

import os
import socket

import psutil

from cloudcrest.compute.api import NodeFacts

NODE_ID = "local"


def this_machine() -> NodeFacts:
    """The node that the local fabric is."""
    return NodeFacts(
        id=NODE_ID,
        address="127.0.0.1",
        cpu_milli=1000 * _cpus(),
        memory_bytes=int(psutil.virtual_memory().total),
        labels={"cloudcrest.io/hostname": socket.gethostname()},
    )


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
