"""Into the namespaces of a sandbox, from outside: a terminal in it, sockets and a device of its network.

    python -I -S namespaces.py enter PID FOLDER FD FILTER program …  becomes the parent of a program inside
    python -I -S namespaces.py sockets PID FD                      hands out sockets of its network over FD, a socket
    python -I -S namespaces.py device PID FD NAME ADDRESS BITS MTU hands over the descriptor of a device that it makes
    python -I -S namespaces.py try                                 makes a device in a network of its own, to no end

The program's environment is in its FD, each variable ended by NUL; its filter of system calls in FILTER, empty for
none.

A process of its own for each: whoever has entered cannot come back. It imports the standard library alone. Namespaces
of a sandbox belong to a user namespace that its maker owns; the command itself is in one below, where it may do less.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import termios
from types import FrameType

NOBODY = 65534
_GET_OWNER = 0xB701
"""ioctl NS_GET_USERNS of ioctl_ns(2)."""
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""CLONE_NEWUSER, CLONE_NEWNET of unshare(2)."""
_DEVICES = "/dev/net/tun"
_MAKE, _ADDRESS, _MASK, _MTU, _FLAGS = 0x400454CA, 0x8916, 0x891C, 0x8922, 0x8914
"""ioctls: TUNSETIFF, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFFLAGS."""
_PACKETS_ALONE, _UP = 0x1001, 0x41
"""IFF_TUN and IFF_NO_PI; IFF_UP and IFF_RUNNING."""
_NO_NEW_PRIVILEGES, _DIES_WITH_PARENT = 38, 1
_SET_FILTER, _BY_PROGRAM = 22, 2
"""PR_SET_SECCOMP with SECCOMP_MODE_FILTER, of prctl(2)."""
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


def enter(pid: int, folder: str, environment: dict[str, str], filtered: bytes, program: list[str]) -> int:
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
            if filtered:
                _refuse(filtered)
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


def _refuse(program: bytes) -> None:
    """Has the kernel run this filter before every call of this process and of what it starts. Raises `OSError`."""
    steps = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(steps))
    if _libc.prctl(_SET_FILTER, _BY_PROGRAM, described, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _found(name: str, places: str) -> str:
    """Where a program is, inside: what looks for it elsewhere cannot be imported there."""
    if "/" in name:
        return name
    found = [f"{folder}/{name}" for folder in places.split(":")]
    return next((place for place in found if os.access(place, os.X_OK)), name)


def _read(fd: str) -> bytes:
    with open(int(fd), "rb") as file:
        return file.read()


def _environment(fd: str) -> dict[str, str]:
    lines = [line.decode().partition("=") for line in _read(fd).split(b"\0") if line]
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


def device(name: str, address: str, bits: int, mtu_bytes: int) -> int:
    """Makes a device in the network of this process, up, with an address of a network; its descriptor gives and takes
    whole packets. Raises `OSError`.
    """
    made = os.open(_DEVICES, os.O_RDWR | os.O_CLOEXEC)
    named = name.encode()
    fcntl.ioctl(made, _MAKE, struct.pack("16sH22x", named, _PACKETS_ALONE))
    try:  # it would speak of itself by IPv6, which is not carried
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as setting:
            setting.write("1")
    except OSError:
        pass
    mask = ~((1 << 32 - bits) - 1) & 0xFFFFFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, number in ((_ADDRESS, socket.inet_aton(address)), (_MASK, struct.pack("!I", mask))):
            fcntl.ioctl(control, request, struct.pack("16sHH4s16x", named, socket.AF_INET, 0, number))
        fcntl.ioctl(control, _MTU, struct.pack("16si20x", named, mtu_bytes))
        fcntl.ioctl(control, _FLAGS, struct.pack("16sH22x", named, _UP))
    return made


def hand_device(pid: int, fd: int, words: list[str]) -> int:
    """Makes a device in the sandbox's network, of this name, address, network and size; hands its descriptor over."""
    join(pid, ("net",))
    name, address, bits, mtu_bytes = words
    with socket.socket(fileno=fd) as asked:
        socket.send_fds(asked, [b"."], [device(name, address, int(bits), int(mtu_bytes))])
    return 0


def try_device() -> int:
    """Whether a device can be made at all; says why not."""
    if _libc.unshare(_NEW_NETWORK if os.geteuid() == 0 else _NEW_USER | _NEW_NETWORK) != 0:
        sys.stderr.write(f"no network of its own can be made: {os.strerror(ctypes.get_errno())}\n")
        return 1
    try:
        device("try", "10.0.0.1", 16, 1500)
    except OSError as error:
        sys.stderr.write(f"{_DEVICES} cannot be used: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "try":
        sys.exit(try_device())
    if sys.argv[1] == "device":
        sys.exit(hand_device(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
    if sys.argv[1] == "enter":
        refused = _read(sys.argv[5]) if sys.argv[5] else b""
        sys.exit(enter(int(sys.argv[2]), sys.argv[3], _environment(sys.argv[4]), refused, sys.argv[6:]))
    sys.exit(sockets(int(sys.argv[2]), int(sys.argv[3])))
