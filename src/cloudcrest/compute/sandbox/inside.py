"""What is made inside a sandbox from outside, by a helper that enters its network (namespaces.py). All of it blocks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from cloudcrest.compute.sandbox.api import Network

NAMESPACES = str(Path(__file__).parent / "namespaces.py")
_SECONDS = 10.0


def listen_inside(pid: int, port: int) -> socket.socket:
    """A socket that listens inside, on its loopback. Raises `OSError`."""
    return socket.socket(fileno=_handed("sockets", pid, ask=f"listen {port}"))


def device_inside(pid: int, network: Network) -> int:
    """The descriptor of a new device inside, for this network. Raises `OSError`."""
    return _handed("device", pid, network.name, network.address, str(network.prefix_bits), str(network.mtu_bytes))


def _handed(word: str, pid: int, *arguments: str, ask: str = "") -> int:
    """The descriptor that the helper hands over."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-I", "-S", NAMESPACES, word, str(pid), str(theirs.fileno()), *arguments]
        helper = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        try:
            theirs.close()
            ours.settimeout(_SECONDS)
            if ask:
                ours.send(ask.encode())
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        finally:
            ours.close()
            helper.wait()
    if not fds:
        raise OSError(f"no {word} came")
    os.set_inheritable(fds[0], False)
    return fds[0]
