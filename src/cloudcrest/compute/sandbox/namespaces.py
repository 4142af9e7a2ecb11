"""Into the namespaces of a sandbox, from outside: a terminal in it, and sockets of its network.

    python -I -S namespaces.py enter PID FOLDER FD -- program …    becomes the parent of a program inside
    python -I -S namespaces.py sockets PID FD                      hands out sockets of its network over FD, a socket

The program's environment is in its FD, each variable ended by NUL.

A process of its own for each: whoever has entered cannot come back. It imports the standard library alone. Namespaces
of a sandbox belong to a user namespace that its maker owns; the command itself is in one below, where it may do less.
"""

import ctypes
import fcntl
import os
import signal
import socket
import sys
import termios
from types import FrameType

NOBODY = 65534
_GET_OWNER = 0xB701
"""ioctl NS_GET_USERNS of ioctl_ns(2)."""
_NO_NEW_PRIVILEGES, _DIES_WITH_PARENT = 38, 1
_libc = ctypes.CDLL(None, use_errno=True)


def join(pid: int, kinds: tuple[str, ...]) -> None:
    """Joins namespaces of a process, by the names under /proc/PID/ns. Raises `OSError`."""
    folders = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds}
    own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    if os.geteuid() == 0:
        os.setgroups([])  # inside that is for nobody to do
    else:
        owner = fcntl.ioctl(next(iter(folders.values())), _GET_OWNER)
        _set_namespace(owner)
    for fd in folders.values():
        _set_namespace(fd)
    if "mnt" in kinds:
        _set_namespace(own)
        os.setresgid(*[NOBODY] * 3)
        os.setresuid(*[NOBODY] * 3)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def enter(pid: int, folder: str, environment: dict[str, str], program: list[str]) -> int:
    """Runs a program inside on the terminal at standard input; its exit code, as a shell would report it."""
    join(pid, ("ipc", "uts", "net", "pid", "cgroup", "mnt"))
    child = os.fork()
    if child == 0:
        _libc.prctl(_DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.chdir(folder)
        try:
            path = _found(program[0], environment.get("PATH", "/usr/bin:/bin"))
            os.execve(path, program, environment)  # noqa: S606 - a program inside, by its words
        except OSError as error:
            sys.stderr.write(f"cannot run {program[0]}: {error.strerror}\n")
            os._exit(127)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _found(name: str, places: str) -> str:
    """Where a program is, inside: what looks for it elsewhere cannot be imported there."""
    if "/" in name:
        return name
    found = [f"{folder}/{name}" for folder in places.split(":")]
    return next((place for place in found if os.access(place, os.X_OK)), name)


def _environment(fd: int) -> dict[str, str]:
    with open(fd, "rb") as file:
        lines = [line.decode().partition("=") for line in file.read().split(b"\0") if line]
    return {name: value for name, _, value in lines}


def sockets(pid: int, fd: int) -> int:
    """Answers each `listen PORT` with a socket that listens there, and each `dial` with one to connect by."""
    join(pid, ("net",))
    asked = socket.socket(fileno=fd)
    while line := asked.recv(64):
        made = socket.socket()
        word, _, port = line.decode().partition(" ")
        if word == "listen":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("127.0.0.1", int(port)))
            made.listen(64)
        socket.send_fds(asked, [b"."], [made.fileno()])
        made.close()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "enter":
        sys.exit(enter(int(sys.argv[2]), sys.argv[3], _environment(int(sys.argv[4])), sys.argv[6:]))
    sys.exit(sockets(int(sys.argv[2]), int(sys.argv[3])))
