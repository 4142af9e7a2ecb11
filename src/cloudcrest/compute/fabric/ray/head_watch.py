"""Ends what speaks to Ray's head with it: a node's Ray, which cannot live on under the next one and takes most of a
minute to find that out by itself, and the fabric process.
"""

import os
import socket
import threading
import time

from cloudcrest.compute.fabric.ray.command import host_and_port

LOOK_SECONDS = 0.5
HEAD_STARTS_WITHIN_SECONDS = 60.0
EXIT_CODE = 75  # EX_TEMPFAIL
_CONNECT_SECONDS = 2.0


def is_refused(head: str) -> bool:
    """Whether the head's machine says that nothing listens there. One that says nothing may just not be reached."""
    try:
        socket.create_connection(host_and_port(head), timeout=_CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def wait_for(head: str, *, seconds: float = HEAD_STARTS_WITHIN_SECONDS) -> None:
    """Waits while nothing listens there: a Ray that is started meanwhile ends, and is tried again ever more seldom."""
    until = time.monotonic() + seconds
    while is_refused(head) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def end_with(head: str) -> None:
    """Ends this process as soon as nothing listens there any more. What Ray has started is killed with it."""

    def look() -> None:
        while not is_refused(head):
            time.sleep(LOOK_SECONDS)
        os._exit(EXIT_CODE)

    threading.Thread(target=look, name="head-watch", daemon=True).start()
