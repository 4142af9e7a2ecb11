"""More ways out that a command tries, by the machine's own services and by using everything up."""

import os
import socket
from pathlib import Path

import pytest

from cloudcrest.compute.sandbox.bubblewrap import Bubblewrap
from cloudcrest.compute.sandbox.probe import probe
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.sandboxes import hold, said

PROBLEM = probe()
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "bubblewrap works")]
PYTHON = Path("/usr/bin/python3")
needs_python = pytest.mark.skipif(not PYTHON.exists(), reason="no /usr/bin/python3, the sandbox has no other")


@pytest.fixture
def sandbox() -> Bubblewrap:
    return Bubblewrap(OutboundPolicy())


async def test_the_clouds_ports_and_files_are_not_there(sandbox: Bubblewrap, tmp_path: Path) -> None:
    for name in ("spool", "secrets.json", "region"):
        (tmp_path / name).touch()
    with socket.create_server(("127.0.0.1", 0)) as listening:  # stands for PostgreSQL's port, or the region service's
        port = listening.getsockname()[1]
        script = f"""
            ls -d /run /var /root /home /sys /srv /opt /mnt /boot 2>/dev/null
            ls {tmp_path}/spool {tmp_path}/secrets.json {tmp_path}/region 2>/dev/null
            for place in 127.0.0.1 localhost 0.0.0.0 ::1 ::ffff:127.0.0.1; do
                (echo > /dev/tcp/$place/{port}) 2>/dev/null && echo reached $place
            done
            echo end
        """
        assert await said(sandbox, script, tmp_path / "work") == "end\n"


@needs_python
async def test_system_calls_that_take_rights_are_refused(sandbox: Bubblewrap, tmp_path: Path) -> None:
    script = f"""/usr/bin/python3 - <<'END'
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, call):
    try:
        failed = call() == -1
    except OSError:
        failed = True
    print(name, "refused" if failed else "DONE")
tried("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and 0)
tried("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) and 0)
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    tried("namespace %x" % flag, lambda: libc.unshare(flag))
tried("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
tried("remount", lambda: libc.mount(None, b"/usr", None, 0x1020, None))
tried("unmount", lambda: libc.umount2(b"/usr", 2))
tried("setuid", lambda: libc.setuid(0))
tried("setgid", lambda: libc.setgid(0))
tried("ptrace of the runner", lambda: libc.ptrace(16, {os.getpid()}, 0, 0))
tried("signal to the runner", lambda: libc.kill({os.getpid()}, 9))
tried("host name", lambda: libc.sethostname(b"x", 1))
tried("clock", lambda: libc.settimeofday(ctypes.byref((ctypes.c_long * 2)(1, 0)), None))
tried("chroot", lambda: libc.chroot(b"/tmp"))
tried("join init's namespace", lambda: libc.setns(os.open("/proc/1/ns/user", os.O_RDONLY), 0))
tried("priority", lambda: libc.setpriority(0, 0, -20))
END"""
    output = await said(sandbox, script, tmp_path / "work")
    assert output.count("refused") == 18, output
    assert "DONE" not in output


@needs_python
async def test_what_another_command_has_open_is_not_inherited(sandbox: Bubblewrap, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the cloud's key")
    with secret.open() as opened:
        os.set_inheritable(opened.fileno(), True)
        script = "/usr/bin/python3 -c 'import os; print(sorted(map(int, os.listdir(\"/proc/self/fd\")))[:9])'"
        output = await said(sandbox, script, tmp_path / "work")
    assert eval(output)[:3] == [0, 1, 2]  # noqa: S307 - a list of numbers
    assert len(eval(output)) <= 4, output  # noqa: S307 - the folder that is being read is the fourth


async def test_its_temporary_folder_is_bounded(sandbox: Bubblewrap, tmp_path: Path) -> None:
    script = "fallocate -l 2G /tmp/full 2>&1; stat -f -c '%b %S' /tmp /dev; ls /dev/shm"
    output = await said(sandbox, script, tmp_path / "work")
    assert "No space left on device" in output
    blocks, size = map(int, output.splitlines()[1].split())
    assert blocks * size == 1 << 30


async def test_processes_that_make_processes_end_with_it(sandbox: Bubblewrap, tmp_path: Path) -> None:
    script = "bomb() { bomb | bomb & }; bomb 2>/dev/null; echo lit; sleep 60"
    held = await hold(sandbox, script, tmp_path / "work", processes=64)
    await held.says("lit")
    assert held.process.usage().processes <= 66  # with bubblewrap's own
    held.process.kill()
    await held.ended()
    assert await said(sandbox, "echo still works", tmp_path / "after", processes=64) == "still works\n"


async def test_links_that_lead_out_of_its_work_folder_are_not_followed_when_it_is_given_away(
    sandbox: Bubblewrap, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    owner = outside.stat().st_uid, (outside / "file").stat().st_uid
    work = tmp_path / "work"
    work.mkdir()
    (work / "folder").symlink_to(outside)
    (work / "file").symlink_to(outside / "file")
    assert await said(sandbox, "cat folder/file file 2>/dev/null; echo end", work) == "end\n"
    assert (outside.stat().st_uid, (outside / "file").stat().st_uid) == owner


async def test_it_has_the_device_files_that_it_is_given_and_no_others(sandbox: Bubblewrap, tmp_path: Path) -> None:
    work = tmp_path / "work"
    there = [path for path in ("/dev/net/tun", "/dev/fuse", "/dev/kvm", "/dev/hwrng") if os.access(path, os.F_OK)]
    if len(there) < 2:
        pytest.skip("this machine has no devices to tell apart")
    script = f"for each in {' '.join(there)}; do test -c $each && echo $each; done"
    assert await said(sandbox, script, work) == ""
    assert await said(sandbox, script, work, devices=(there[0],)) == f"{there[0]}\n"
