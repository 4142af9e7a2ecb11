"""Which system calls a command in bubblewrap may make: all but those by which kernels are broken into. Pure.

Refused is what container runtimes' default profiles refuse to processes without rights (Moby's, containerd's): what
needs rights anyway, so that a fault in its checks is of no use, and what made new attacks possible lately. A program
of classic BPF (seccomp(2), linux/seccomp.h), which the kernel runs before every call; numbers are those of
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

import errno
import struct

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # mounts, roots, and namespaces in which one would be root
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "unshare": (272, 97), "setns": (308, 268),
    # files by handles, past the view
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # the kernel itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "create_module": (174, None), "get_kernel_syms": (177, None),
    "query_module": (178, None), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "reboot": (169, 142), "syslog": (103, 116), "lookup_dcookie": (212, 18), "_sysctl": (156, None),
    # keys, which no namespace keeps apart
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # the machine
    "swapon": (167, 224), "swapoff": (168, 225), "iopl": (172, None), "ioperm": (173, None), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "nfsservctl": (180, 42), "vhangup": (153, 58),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None),
}  # fmt: skip
"""Numbers on x86_64 and aarch64; None: there is none."""
ABSENT = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)
}  # fmt: skip
"""As on a kernel without them, so that programs take another way: of clone3 no filter can see what it makes."""
_CLONE, _SOCKET = (56, 220), (41, 198)
NAMESPACES = 0x7E020000
"""Flags of clone: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
FAMILIES = (38, 40)
"""Of sockets: AF_ALG, the kernel's ciphers; AF_VSOCK, which leads to the virtual machine's host past every network."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _RETURN, _EQUAL, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Where they are in struct seccomp_data; of the argument the lower half."""


def filter_for(machine: str) -> bytes:
    """The program for a machine ("x86_64", "aarch64"), as `bwrap --seccomp` takes it; empty for others."""
    if machine not in _ARCHITECTURES:
        return b""
    column, audit = _ARCHITECTURES[machine]
    refused, absent = _errno(errno.EPERM), _errno(errno.ENOSYS)
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, audit, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER)]
    if machine == "x86_64":
        steps += [_step(_AT_LEAST, _X32, 0, 1), absent]
    for calls, answer in ((REFUSED, refused), (ABSENT, absent)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                steps += [_step(_EQUAL, number, 0, 1), answer]
    steps += [
        *(_step(_EQUAL, _CLONE[column], 0, 4), _step(_LOAD, _FIRST_ARGUMENT)),
        *(_step(_ANY_BIT, NAMESPACES, 0, 1), refused, _step(_RETURN, _ALLOW)),
        *(_step(_EQUAL, _SOCKET[column], 0, 4), _step(_LOAD, _FIRST_ARGUMENT)),
        *(_step(_EQUAL, FAMILIES[0], 1, 0), _step(_EQUAL, FAMILIES[1], 0, 1), _errno(errno.EAFNOSUPPORT)),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _errno(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """struct sock_filter: how many steps are passed over, where it is so and where not."""
    return struct.pack("=HBBI", code, if_so, if_not, value)
