"""Commands that try to get out of their sandbox, for real: each fails in a defined way."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudcrest.compute.sandbox.api import Bind
from cloudcrest.compute.sandbox.bubblewrap import Bubblewrap
from cloudcrest.compute.sandbox.giving import give
from cloudcrest.compute.sandbox.probe import probe
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.sandboxes import hold, may_hold_memory, said
from tests.support.waiting import until
from tests.support.web import serving

PROBLEM = probe()
SECONDS = f"4711.{os.getpid()}"
"""How long its commands sleep: other runs on this machine look for others."""
# ruff: noqa: ASYNC220, ASYNC240 - small files and quick programs
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "bubblewrap works")]
ASK = (
    'ask() { exec 3<>/dev/tcp/127.0.0.1/3128; printf "$1" >&3; head -n 1 <&3; exec 3>&-; }\n'
    'get() { ask "GET $1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"; }\n'
    'connect() { ask "CONNECT $1 HTTP/1.1\\r\\n\\r\\n"; }\n'
)  # fmt: skip


@pytest.fixture
def sandbox() -> Bubblewrap:
    return Bubblewrap(OutboundPolicy())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a server on this machine's loopback."""
    with serving() as port:
        yield port


async def test_it_is_nobody_and_can_become_nobody_else(sandbox: Bubblewrap, work: Path) -> None:
    output = await said(
        sandbox,
        "id -u; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; unshare -U true || echo no namespaces",
        work,
    )
    assert output.splitlines()[0] == "65534"
    assert "CapEff:\t0000000000000000" in output
    assert "CapBnd:\t0000000000000000" in output
    assert "NoNewPrivs:\t1" in output
    assert "no namespaces" in output


async def test_it_sees_named_folders_alone(sandbox: Bubblewrap, work: Path, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text("the cloud's key")
    shared = tmp_path / "volume"
    shared.mkdir()
    (shared / "data").write_text("of the volume")
    work.mkdir()
    (work / "link").symlink_to(secrets)
    script = f"""
        cat {secrets} link /proc/1/root{secrets} /proc/self/cwd/../{secrets} 2>&1
        ls {tmp_path} / 2>&1; cat /etc/shadow /etc/hostname 2>&1
        cat /data/data; (echo x > /data/new) 2>&1; echo mine > outputs && cat outputs
        (echo x > /usr/x; echo x > /etc/passwd; mkdir /data2) 2>&1
    """
    output = await said(sandbox, script, work, binds=(Bind(shared, "/data"),))
    assert "cloud's key" not in output
    assert "of the volume" in output
    assert "mine" in output
    assert output.count("Read-only file system") + output.count("Permission denied") >= 3
    assert str(tmp_path.name) not in output.replace(str(tmp_path), "")
    assert not (shared / "new").exists()


async def test_a_link_in_a_volume_leads_to_the_sandbox_s_own(sandbox: Bubblewrap, work: Path, tmp_path: Path) -> None:
    shared = tmp_path / "volume"
    shared.mkdir()
    (shared / "passwd").symlink_to("/etc/passwd")
    output = await said(sandbox, "cat /data/passwd", work, binds=(Bind(shared, "/data", is_writable=True),))
    assert output == "nobody:x:65534:65534:nobody:/work:/bin/sh\n"


async def test_it_sees_no_processes_but_its_own(
    sandbox: Bubblewrap, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_RUNNER", "hidden")
    script = f"cat /proc/[0-9]*/environ | tr '\\0' '\\n'; kill -0 {os.getpid()} 2>&1; ls -d /proc/[0-9]* | wc -l"
    output = await said(sandbox, script, work, environment={"OF_THE_JOB": "seen"})
    assert "OF_THE_JOB=seen" in output
    assert "hidden" not in output
    assert "No such process" in output
    assert int(output.splitlines()[-1]) <= 6


async def test_it_reaches_nothing_by_network(sandbox: Bubblewrap, work: Path, web: int, tmp_path: Path) -> None:
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind("\0cloudcrest-test")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "node.sock"))
    listening.listen()
    script = f"""
        for place in 127.0.0.1/{web} 169.254.169.254/80 1.1.1.1/53; do
            (echo > /dev/tcp/$place) 2>/dev/null && echo reached $place
        done
        grep -c cloudcrest-test /proc/net/unix; test -e {tmp_path}/node.sock && echo reached the agent
        grep -v lo: /proc/net/dev | tail -n +3
    """
    with hidden, listening:
        output = await said(sandbox, script, work)
    assert output == "0\n"


async def test_devices_kernel_and_mounts_are_out_of_reach(sandbox: Bubblewrap, work: Path) -> None:
    script = """
        ls /dev/mem /dev/kmsg /dev/sda /dev/vda 2>/dev/null
        for file in /proc/sys/kernel/panic /proc/sysrq-trigger /proc/sys/vm/drop_caches; do
            (echo 1 > $file) 2>/dev/null && echo wrote $file
        done
        mknod null c 1 3 2>/dev/null && echo made a device
        mkdir here; mount -t tmpfs none here 2>/dev/null && echo mounted
        chroot / true 2>/dev/null && echo changed its root
        cp /usr/bin/id id; chmod 4755 id; ./id -u
    """
    assert await said(sandbox, script, work) == "65534\n"


async def test_it_can_not_make_more_processes_than_it_may(sandbox: Bubblewrap, work: Path) -> None:
    script = "echo begins; for i in $(seq 300); do sleep 60 & done 2>/dev/null; echo made; jobs -p | wc -l"
    output = await said(sandbox, script, work, processes=48)
    assert output.startswith("begins\n")
    assert "made" not in output or int(output.splitlines()[-1]) < 48


@pytest.mark.skipif(not may_hold_memory(), reason="this machine lets nobody make a control group")
async def test_memory_ends_at_its_limit_and_is_said(sandbox: Bubblewrap, work: Path) -> None:
    held = await hold(sandbox, "head -c 400M /dev/zero | tail | wc -c; exit 3", work, memory_bytes=64 << 20)
    end = await held.ended()
    killed = await hold(sandbox, "exec tail /dev/zero", work, memory_bytes=64 << 20)
    assert (await killed.ended()).is_out_of_memory
    assert end.exit_code == 3  # one of its programs was killed, the command went on
    assert "419430400" not in held.output


async def test_nothing_stays_when_it_ends_or_is_killed(sandbox: Bubblewrap, work: Path) -> None:
    script = f"trap '' TERM HUP; (setsid sleep {SECONDS} &) ; (setsid sleep {SECONDS} &); echo ready; sleep {SECONDS}"
    held = await hold(sandbox, script, work)
    await held.says("ready")
    held.process.signal(signal.SIGTERM)
    until(lambda: len(_sleepers()) == 3, "all of it sleeps")
    held.process.kill()
    assert (await held.ended()).signal == signal.SIGKILL
    until(lambda: not _sleepers(), "all of it is gone")
    script = f"(setsid sleep {SECONDS} &); until grep -qsx sleep /proc/[0-9]*/comm; do :; done; echo left"
    assert await said(sandbox, script, work) == "left\n"
    until(lambda: not _sleepers(), "what it left is gone")


async def test_it_dies_with_its_runner_and_leaves_nothing(work: Path, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from cloudcrest.compute.sandbox.bubblewrap import Bubblewrap\n"
        "from cloudcrest.compute.sandbox.api import SandboxSpec\n"
        "from cloudcrest.infra.outbound import OutboundPolicy\n"
        "async def main():\n"
        "    spec = SandboxSpec('dies', ('bash', '-c', 'echo ready; sleep ' + sys.argv[2]), Path(sys.argv[1]))\n"
        "    await (await Bubblewrap(OutboundPolicy()).start(spec, 1)).wait()\n"
        "asyncio.run(main())"
    )
    work.mkdir()
    left = tmp_path / "temporary"
    left.mkdir(mode=0o755)
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(work), SECONDS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(left)},
    )
    assert runner.stdout is not None
    assert await asyncio.to_thread(runner.stdout.readline) == "ready\n"
    until(_sleepers, "the command sleeps")
    runner.kill()
    runner.wait()
    runner.stdout.close()
    until(lambda: not _sleepers(), "the command is gone")
    assert [*left.iterdir()] == []


async def test_two_commands_do_not_see_each_other(sandbox: Bubblewrap, tmp_path: Path) -> None:
    first = await hold(sandbox, "echo theirs > file; echo ready; sleep 60", tmp_path / "first", name="first")
    await first.says("ready")
    script = f"cat {tmp_path}/first/file /work/../first/file 2>/dev/null; grep -l sleep /proc/[0-9]*/comm; echo done"
    assert await said(sandbox, script, tmp_path / "second", name="second") == "done\n"
    first.process.kill()
    await first.ended()


async def test_the_proxy_leads_to_allowed_hosts_alone(work: Path, web: int) -> None:
    open_here = Bubblewrap(OutboundPolicy(["127.0.0.1"]))
    script = f"""{ASK}
        get http://127.0.0.1:{web}/a; get http://127.0.0.1:1/; get http://example.com/; connect 127.0.0.1:22
        connect 127.0.0.1:{web}; get ftp://127.0.0.1/; ask 'nonsense\\r\\n\\r\\n'
        echo $https_proxy
    """
    held = await hold(open_here, script, work, allowed_hosts=(f"127.0.0.1:{web}",))
    await held.ended()
    output, used = held.output, held.process.usage()
    assert used.received_bytes > used.sent_bytes > 50  # two requests of few bytes
    lines = output.replace("\r", "").splitlines()
    assert [line.split(" ")[1] for line in lines[:6]] == ["200", "403", "403", "403", "200", "400"]
    assert lines[-1] == "http://127.0.0.1:3128"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "localhost", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "0"]
)
async def test_the_proxy_leads_into_no_internal_network(sandbox: Bubblewrap, work: Path, web: int, host: str) -> None:
    allowed = tuple(f"{name}:{web}" for name in (host.strip("[]"), host))
    script = f"{ASK} get http://{host}:{web}/; connect {host}:{web}"
    output = await said(sandbox, script, work, allowed_hosts=allowed)
    statuses = {line.split(" ")[1] for line in output.splitlines() if line.startswith("HTTP/1.1")}
    assert statuses
    assert statuses <= {"403", "502"}
    assert "served" not in output


async def test_a_terminal_is_in_the_same_sandbox(sandbox: Bubblewrap, work: Path) -> None:
    held = await hold(sandbox, "echo ready; sleep 60", work, environment={"OF": "the job"})
    await held.says("ready")
    master, slave = os.openpty()
    script = "id -u; grep CapEff /proc/self/status; ls -d /proc/[0-9]* | wc -l; echo of $OF; tty; exit 7"
    entered = await held.process.enter(("bash", "-c", script), slave, {"TERM": "xterm"})
    end = await entered.wait()
    os.close(slave)
    output = os.read(master, 65_536).decode().replace("\r", "")
    os.close(master)
    assert end.exit_code == 7, output
    assert output.splitlines()[0] == "65534"
    assert "CapEff:\t0000000000000000" in output
    assert "of the job" in output
    held.process.kill()
    await held.ended()


async def test_what_a_shell_is_entered_by_is_not_started_with_its_environment(
    sandbox: Bubblewrap, work: Path, tmp_path: Path
) -> None:
    # The loader obeys it before any program does: LD_PRELOAD would run the tenant's code outside.
    seen = tmp_path / "seen"
    environment = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(seen), "GREETING": "a\nb=c"}
    held = await hold(sandbox, "echo up; sleep 60", work, environment=environment)
    await held.says("up")
    master, slave = os.openpty()
    entered = await held.process.enter(("bash", "-c", "test \"$GREETING\" = $'a\\nb=c'"), slave, {"TERM": "xterm"})
    end = await entered.wait()
    os.close(slave)
    os.close(master)
    held.process.kill()
    await held.ended()
    assert not list(tmp_path.glob("seen*"))
    assert end.exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_link_that_comes_while_a_folder_is_given_away_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, given = tmp_path / "outside", tmp_path / "given"
    (given / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    scandir, opened = os.scandir, os.open

    def swap(name: object) -> None:
        if str(name) in {"inner", str(given / "inner")} and not (given / "gone").exists():
            (given / "inner").rename(given / "gone")
            (given / "inner").symlink_to(outside)

    def scan(name: Any) -> Any:
        swap(name)
        return scandir(name)

    def enter(name: Any, *how: Any, **more: Any) -> int:
        swap(name)
        return opened(name, *how, **more)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "open", enter)
    give(given)
    assert (given / "inner").is_symlink()
    assert (outside / "secret").stat().st_uid == 0
    assert given.stat().st_uid == 65534


def _sleepers() -> list[int]:
    processes = psutil.process_iter(["cmdline"])
    return [process.pid for process in processes if process.info["cmdline"] == ["sleep", SECONDS]]
