"""The listening sockets, bound once by `up` and inherited, so that a restarted process loses no connection."""

import contextlib
import errno
import socket
import sys

from cloudcrest.kernel.errors import SetupError

_BACKLOG = 2048


def listen_publicly(host: str, port: int) -> socket.socket:
    """The public socket. Raises `SetupError` where the address is in use, not ours or not allowed.

    Without SO_REUSEPORT: two clouds on one port would each get half the connections and nobody would know.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise SetupError(
            f"'{host}' is no address of this machine: {error.strerror}", hint="use --host 127.0.0.1 or --host 0.0.0.0"
        ) from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _explained(error, host, port) from error
    return listening


def share(listening: socket.socket, workers: int) -> tuple[socket.socket, ...]:
    """A listening socket for each worker, all on the address of this one, which is the first of them.

    On Linux they have SO_REUSEPORT, and the kernel spreads connections over them by a hash: workers that accept from
    one socket share long-lived connections badly. As `up` keeps all of them open, what waits at that of a worker that
    died is there for its successor. Elsewhere the option spreads nothing, and all accept from the one socket.
    """
    if workers == 1 or sys.platform != "linux":
        return (listening,) * workers
    # Set only now that the address is ours: our first socket was bound without it.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    others = []
    for _ in range(workers - 1):
        other = socket.socket(listening.family, socket.SOCK_STREAM)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(listening.getsockname())
        other.listen(_BACKLOG)
        others.append(other)
    return (listening, *others)


def listen_on_loopback() -> socket.socket:
    """A socket on a free loopback port, for traffic between our own processes."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen(_BACKLOG)
    return listening


def free_port(address: str, port: int = 0) -> int:
    """A port that is free now at an address of this machine: this one, or any for 0. Raises `SetupError` without."""
    with contextlib.closing(listen_publicly(address, port)) as listening:
        return port_of(listening)


def port_of(listening: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = listening.getsockname()[1]
    return port


def url_of(listening: socket.socket, *, host: str, has_tls: bool) -> str:
    """How this machine reaches the socket: a wildcard address becomes the loopback one."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared only
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"{'https' if has_tls else 'http'}://{reachable}:{port_of(listening)}"


def _explained(error: OSError, host: str, port: int) -> SetupError:
    if error.errno == errno.EADDRINUSE:
        return SetupError(
            f"port {port} of {host} is in use by another program",
            hint="stop that program, or choose another port with --port (0 takes a free one)",
        )
    if error.errno == errno.EACCES:
        return SetupError(f"this user may not listen on port {port}", hint="choose a port above 1023 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return SetupError(f"this machine has no address {host}", hint="use --host 127.0.0.1 or --host 0.0.0.0")
    return SetupError(f"cannot listen on {host}:{port}: {error.strerror}", hint="choose others with --host and --port")
