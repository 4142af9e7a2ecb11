"""System calls that kernels are broken into by are refused to commands, and programs work as ever."""

import asyncio
import os
import pty
import struct
from pathlib import Path

import pytest

from cloudcrest.compute.sandbox.bubblewrap import Bubblewrap
from cloudcrest.compute.sandbox.filter import filter_for
from cloudcrest.compute.sandbox.probe import probe
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.sandboxes import hold, said

PROBLEM = probe()
MACHINE = os.uname().machine
PYTHON = Path("/usr/bin/python3")
held_here = pytest.mark.skipif(
    bool(PROBLEM) or not PYTHON.exists() or MACHINE != "x86_64", reason=PROBLEM or "needs /usr/bin/python3, x86_64"
)
pytestmark = pytest.mark.anyio

TRIES = r"""/usr/bin/python3 - <<'END'
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, number, *arguments):
    failed = libc.syscall(number, *arguments) == -1
    print(name, errno.errorcode[ctypes.get_errno()] if failed else "DONE", flush=True)
tried("add_key", 248, b"user", b"cloudcrest", b"x", 1, -3)
tried("keyctl", 250, 0, -3, 1)
tried("request_key", 249, b"user", b"cloudcrest", None, 0)
tried("bpf", 321, 0, None, 0)
tried("perf_event_open", 298, None, 0, -1, -1, 0)
tried("userfaultfd", 323, 1)
tried("unshare user", 272, 0x10000000)
tried("unshare files", 272, 0x400)
tried("setns", 308, 0, 0)
tried("clone user", 56, 0x10000011, 0, 0, 0, 0)
tried("open_by_handle_at", 304, 0, None, 0)
tried("mount", 165, None, b"/tmp", None, 0, None)
tried("open_tree", 428, -100, b"/", 1)
tried("kexec_load", 246, 0, 0, None, 0)
tried("init_module", 175, None, 0, b"")
tried("reboot", 169, 1, 2, 3, None)
tried("swapon", 167, b"/x", 0)
tried("iopl", 172, 3)
tried("clone3", 435, None, 0)
tried("io_uring_setup", 425, 1, None)
tried("getpid of x32", 0x40000000 + 39)
for name, family in (("vsock", 40), ("alg", 38)):
    try:
        socket.socket(family, socket.SOCK_STREAM if name == "vsock" else socket.SOCK_SEQPACKET)
        print(name, "DONE")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
END"""


def expected() -> list[str]:
    absent = {"clone3", "io_uring_setup", "getpid of x32"}
    no_family = {"vsock", "alg"}
    names = [line.split('"')[1] for line in TRIES.splitlines() if line.startswith("tried(")] + ["vsock", "alg"]
    return [
        f"{name} {'ENOSYS' if name in absent else 'EAFNOSUPPORT' if name in no_family else 'EPERM'}" for name in names
    ]


@held_here
async def test_calls_that_no_command_needs_are_refused(tmp_path: Path) -> None:
    assert (await said(Bubblewrap(OutboundPolicy()), TRIES, tmp_path / "work")).splitlines() == expected()


@held_here
async def test_they_are_refused_in_a_terminal_beside_it_too(tmp_path: Path) -> None:
    held = await hold(Bubblewrap(OutboundPolicy()), "echo up; sleep 600", tmp_path / "work")
    await held.says("up")
    ours, theirs = pty.openpty()
    try:
        shell = await held.process.enter(("bash", "-c", TRIES), theirs, {})
        os.close(theirs)
        await shell.wait()
        shown = (await asyncio.to_thread(os.read, ours, 65_536)).decode()
        assert shown.replace("\r\n", "\n").splitlines() == expected()
    finally:
        os.close(ours)
        held.process.kill()
        await held.ended()


@held_here
async def test_programs_of_another_processor_mode_are_killed(tmp_path: Path) -> None:
    # int 0x80 is how 32-bit programs call: numbers are others there, and would pass unseen.
    script = r"""/usr/bin/python3 -c '
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print("pid", call(), flush=True)
'; echo "ended with $?" """
    assert "ended with 159" in await said(Bubblewrap(OutboundPolicy()), script, tmp_path / "work")  # SIGSYS


@held_here
async def test_python_its_threads_processes_and_shared_memory_work_as_ever(tmp_path: Path) -> None:
    script = r"""cat > try.py <<'END'
import asyncio, ctypes, mmap, multiprocessing, os, selectors, socket, subprocess, sys, tempfile, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory

def square(number):
    return number * number

async def asked():
    process = await asyncio.create_subprocess_exec("echo", "child", stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0]

if __name__ == "__main__":
    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(square, range(100))) == 328350
    for way in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(way)) as pool:
            assert list(pool.map(square, (1, 2, 3))) == [1, 4, 9]
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    block.buf[0] = 7
    block.close(), block.unlink()
    assert asyncio.run(asked()) == b"child\n"
    assert subprocess.check_output("ls / | wc -l", shell=True)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    pid = os.posix_spawn("/bin/true", ["true"], {})
    assert os.waitpid(pid, 0)[1] == 0
    traced = os.fork()
    if traced == 0:
        os._exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0))
    assert os.waitpid(traced, 0)[1] == 0, "a debugger works inside"
    print("all works")
END
/usr/bin/python3 try.py"""
    assert await said(Bubblewrap(OutboundPolicy()), script, tmp_path / "work") == "all works\n"


def test_the_filter_is_a_program_that_the_kernel_takes() -> None:
    for machine in ("x86_64", "aarch64"):
        program = filter_for(machine)
        steps = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
        assert len(steps) < 4096
        assert all(at + 1 + max(if_so, if_not) < len(steps) for at, (_, if_so, if_not, _) in enumerate(steps[:-1]))
        assert steps[-1][0] == steps[2][0] == 0x06
    assert filter_for("riscv64") == b""
