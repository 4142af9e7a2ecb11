"""Commands in a container image by a real Podman: what they find, how they end, what is measured, what they reach."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudcrest.compute.jobs.running import Input, Mount, RunnerSpec, Stop, StopWhy
from cloudcrest.compute.sandbox.api import Bind
from cloudcrest.compute.sandbox.container import ContainerSandbox
from cloudcrest.compute.sandbox.probe import probe_network
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.gangs import go, ready_gang
from tests.support.podman import IMAGE, own_podman, podman
from tests.support.runners import Runner, running_runner, spec
from tests.support.sandboxes import Held, hold
from tests.support.waiting import until
from tests.support.web import serving

pytestmark = [pytest.mark.anyio]
needs_device = pytest.mark.skipif(bool(probe_network()), reason=probe_network() or "it works")


@pytest.fixture(scope="module", autouse=True)
def _podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_podman(tmp_path_factory.mktemp("podman")) as problem:
        if problem:
            pytest.skip(f"no container can be started: {problem}")
        yield


@pytest.fixture
def sandbox() -> ContainerSandbox:
    return ContainerSandbox("podman", OutboundPolicy())


async def held(sandbox: ContainerSandbox, script: str, work: Path, **limits: Any) -> Held:
    return await hold(sandbox, script, work, program="sh", image=IMAGE, name=work.parent.name.strip("_"), **limits)


async def said(sandbox: ContainerSandbox, script: str, work: Path, **limits: Any) -> str:
    started = await held(sandbox, script, work, **limits)
    await started.ended()
    return started.output


def sh(script: str, **changes: Any) -> RunnerSpec:
    return spec(("sh", "-c", script), image=IMAGE, **changes)


def test_a_command_finds_what_it_was_given_and_its_output_is_whole(tmp_path: Path) -> None:
    values = {"PLAIN": "a b  c", "QUOTED": "\"'$HOME `id`\\n", "EMPTY": "", "TAIL": "# no comment ", "WIDE": "é漢"}
    wanted = sh(
        'for name in PLAIN QUOTED EMPTY TAIL WIDE TOKEN; do eval "printf \'%s|\' \\"\\$$name\\""; done; echo\n'
        "echo $HOME $PWD $(hostname) $CLOUDCREST_VOLUME_D; cat in/put /data/file; echo made > outputs/result\n"
        "echo new > /data/new; (echo new > /shown/new) 2>/dev/null || echo read only; seq 200000; exit 3",
        environment=values,
        secrets={"TOKEN": "sesame"},
        inputs=(Input("in/put", is_handed_in=True),),
        mounts=(
            Mount("volume 'd'", str(tmp_path / "d"), "/data", "CLOUDCREST_VOLUME_D", is_writable=True, is_made=True),
            Mount("volume 'e'", str(tmp_path / "e"), "/shown", "", is_writable=False, is_made=True),
        ),
        outputs=("outputs",),
    )
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("of the volume\n")
    with running_runner(tmp_path / "member", "auto") as runner:
        assert runner.post("/prepare", wanted).status_code == 200
        put = runner.http.put("/inputs", params={"path": "in/put"}, content=b"of the input\n")
        assert put.status_code == 204
        until(lambda: runner.state().phase == "ready", "it is ready")
        assert runner.post("/go").status_code == 200
        state = runner.ended()
        assert state.isolation == "podman"
        assert state.record.end is not None
        assert (state.record.end.kind, state.record.end.exit_code) == ("exit", 3)
        lines = whole_log(runner).splitlines()
        assert lines[0] == "|".join([*values.values(), "sesame", ""])
        assert lines[1:5] == ["/work /work job /data", "of the input", "of the volume", "read only"]
        assert lines[5:] == [str(number) for number in range(1, 200_001)]
        assert runner.http.get("/outputs/content", params={"name": "outputs/result"}).text == "made\n"
        assert (tmp_path / "d/new").read_text() == "new\n"
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "log" not in path.parts]
    assert not [path for path in kept if b"sesame" in path.read_bytes()]
    assert podman("ps", "--all", "--quiet").stdout == ""


def whole_log(runner: Runner) -> str:
    text = b""
    while piece := runner.http.get("/log", params={"offset": len(text)}).content:
        text += piece
    return text.decode()


@pytest.mark.parametrize("why", ["cancelled", "time_limit"])
def test_it_is_measured_while_it_runs_told_to_end_and_ends(tmp_path: Path, why: StopWhy) -> None:
    limit = 1.0 if why == "time_limit" else None
    script = "trap 'echo saves; exit 5' TERM; echo ready; while :; do :; done"
    with running_runner(tmp_path / "member", "auto") as runner:
        runner.run(sh(script, time_limit_seconds=limit, cpu_milli=500))
        if limit is None:
            until(lambda: is_measured(runner), "it is measured")
            runner.post("/stop", Stop(why, "it was cancelled"))
        end = runner.ended().record.end
        assert end is not None
        assert (end.kind, end.exit_code) == (why, 5)
        assert runner.log() == "ready\nsaves\n"


def is_measured(runner: Runner) -> bool:
    found = runner.http.get("/metrics").json()
    return bool(found["cpu_seconds"] > 0.1 and found["processes"] >= 2 and found["memory_bytes"] > 0)


async def test_what_it_uses_is_measured_though_it_is_short(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    script = "head -c 30000000 /dev/zero > /tmp/held; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    started = await held(sandbox, script, tmp_path / "work")
    await started.ended()
    used = started.process.usage()
    assert used.cpu_seconds > 0.1
    assert used.memory_peak_bytes > 30_000_000


async def test_memory_ends_at_its_limit_and_is_said(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    started = await held(sandbox, "exec tail /dev/zero", tmp_path / "work", memory_bytes=32 << 20)
    end = await started.ended()
    assert (end.signal, end.is_out_of_memory) == (9, True)


async def test_a_program_that_the_image_has_not_is_said(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    started = await hold(sandbox, "", tmp_path / "work", program="nothere", image=IMAGE)
    assert (await started.ended()).exit_code == 1
    assert "No such file or directory" in started.output


def test_a_terminal_is_in_the_same_container_and_its_end_is_its_own_alone(tmp_path: Path) -> None:
    with running_runner(tmp_path / "member", "auto") as runner:
        runner.run(sh("echo mine > /tmp/file; echo ready; sleep 4713", environment={"OF": "the job"}))
        until(lambda: "ready" in runner.log(), "it runs")
        shell = runner.post("/shells", {"argv": ["sh", "-c", "cat /tmp/file; id -u; echo of $OF; tty; exit 7"]}).json()
        output = shown(runner, shell["id"], "/dev/")
        assert output.split()[:4] == ["mine", "65534", "of", "the"]
        shell = runner.post("/shells", {"argv": ["sh"]}).json()
        runner.http.post(f"/shells/{shell['id']}/input", content=b"echo $((40 + 2)); sleep 4712\n")
        shown(runner, shell["id"], "42\r\n")
        until(lambda: is_running("sleep 4712"), "the shell's program runs")
        assert runner.http.delete(f"/shells/{shell['id']}").status_code == 204
        until(lambda: not is_running("sleep 4712"), "what it started is gone")
        until(lambda: is_running("sleep 4713"), "its command runs on")
        assert runner.state().phase == "running"
        runner.post("/stop", Stop("cancelled", "it was cancelled"))
        runner.ended()


def shown(runner: Runner, shell_id: str, word: str) -> str:
    text = ""

    def has_word() -> bool:
        nonlocal text
        answer = runner.http.get(f"/shells/{shell_id}", params={"offset": 0, "wait": 1})
        text = answer.text
        return word in text

    until(has_word, f"the terminal shows '{word}'")
    return text


def is_running(command: str) -> bool:
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if each.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() == command:
                return True
        except OSError:
            continue
    return False


async def test_it_has_no_rights_and_writes_nowhere_but_where_it_may(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    script = """
        id -u; id -G; grep -E 'CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp:' /proc/self/status
        for file in /x /bin/x /etc/passwd /etc/hosts /proc/sys/kernel/panic /proc/sysrq-trigger \
            /proc/sys/vm/drop_caches /sys/kernel/x /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs; do
            (echo 1 > $file) 2>/dev/null && echo wrote $file
        done
        ls /dev/mem /dev/kmsg /dev/sda /dev/vda /dev/net/tun 2>/dev/null
        mknod null c 1 3 2>/dev/null && echo made a device
        mkdir here; mount -t tmpfs none here 2>/dev/null && echo mounted
        mount -o remount,rw / 2>/dev/null && echo made it writable
        chroot / true 2>/dev/null && echo changed its root
        unshare -U true 2>/dev/null && echo made a namespace
        unshare -Ur mount -t tmpfs none here 2>/dev/null && echo mounted as root of its own
        ip addr add 10.9.9.9/8 dev lo 2>/dev/null && echo has an address
        hostname other 2>/dev/null && echo has a name
        /suid/id -u; cp /bin/busybox id; chmod 4755 id; ./id -u
    """
    lines = (await said(sandbox, script, tmp_path / "work")).splitlines()
    assert lines[:2] == ["65534", "65534"]
    assert sorted(line.replace("\t", " ") for line in lines[2:7]) == [
        "CapBnd: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapPrm: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
    ]
    assert lines[7:] == ["65534", "65534"]


async def test_it_sees_its_own_folders_and_processes_alone(
    sandbox: ContainerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_RUNNER", "hidden")
    secret, work, shared = tmp_path / "secret", tmp_path / "work", tmp_path / "volume"
    secret.write_text("the cloud's key")
    for folder in (work, shared):
        folder.mkdir()
        (folder / "link").symlink_to(secret)
    script = f"""
        cat link /data/link {secret} /work/../{secret} /proc/1/root{secret} 2>/dev/null
        ls -d {tmp_path} /var/lib/containers /root /home /run/podman /var/run/docker.sock 2>/dev/null
        cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep hidden
        kill -0 {os.getpid()} 2>/dev/null && echo sees the runner
        cat /etc/hosts /etc/resolv.conf 2>/dev/null; (echo x > /data/new) 2>/dev/null && echo wrote; echo done
    """
    output = await said(sandbox, script, work, binds=(Bind(shared, "/data"),))
    assert output == "127.0.0.1 localhost job\n::1 localhost\ndone\n"


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a server on this machine's loopback."""
    with serving() as port:
        yield port


async def test_it_reaches_nothing_by_network(sandbox: ContainerSandbox, tmp_path: Path, web: int) -> None:
    hidden, listening = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    hidden.bind("\0cloudcrest-test-podman")
    listening.bind(str(tmp_path / "node.sock"))
    listening.listen()
    script = f"""
        for place in "127.0.0.1 {web}" "169.254.169.254 80" "1.1.1.1 53"; do
            nc -w 2 $place < /dev/null 2>/dev/null && echo reached $place
        done
        grep -c cloudcrest-test-podman /proc/net/unix; ls {tmp_path}/node.sock /run/postgresql /var/run/postgresql \
            /tmp/ray /tmp/.s.PGSQL* /run/dbus /run/containerd 2>/dev/null
        grep -v lo: /proc/net/dev | tail -n +3
    """
    with hidden, listening:
        assert await said(sandbox, script, tmp_path / "work") == "0\n"


async def test_two_commands_do_not_see_each_other(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = await held(sandbox, "echo theirs > file; echo ready; sleep 60", tmp_path / "first/work")
    await first.says("ready")
    script = f"cat {tmp_path}/first/work/file 2>/dev/null; grep -lx sleep /proc/[0-9]*/comm; echo done"
    assert await said(sandbox, script, tmp_path / "second/work") == "done\n"
    first.process.kill()
    assert (await first.ended()).signal == 9


async def test_it_can_not_make_more_processes_than_it_may(sandbox: ContainerSandbox, tmp_path: Path) -> None:
    script = "echo begins; for i in $(seq 300); do sleep 60 & done 2>/dev/null; echo made; jobs -p | wc -l"
    output = await said(sandbox, script, tmp_path / "work", processes=48)
    assert output.startswith("begins\n")
    assert "made" not in output or int(output.splitlines()[-1]) < 48


RUNNER = """
import asyncio, sys
from pathlib import Path
from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.compute.sandbox.container import ContainerSandbox
from cloudcrest.infra.outbound import OutboundPolicy
async def main():
    spec = SandboxSpec("killed", ("sh", "-c", "echo ready; sleep 4714"), Path(sys.argv[1]), image=sys.argv[2])
    await (await ContainerSandbox("podman", OutboundPolicy()).start(spec, 1)).wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("is_made", [True, False])
def test_a_container_whose_runner_is_killed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_made: bool
) -> None:
    before = processes_of("podman", "conmon", "runc", "crun")
    making = tmp_path / "making"
    if not is_made:  # killed in the midst of it: the runtime has begun
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin/podman"
        program.write_text(f'#!/bin/sh\n[ "$1" != init ] || touch {making}\nexec {shutil.which("podman")} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    argv = [sys.executable, "-c", RUNNER, str(tmp_path / "work"), IMAGE]
    runner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    if is_made:
        assert runner.stdout.readline() == "ready\n"
        until(lambda: is_running("sleep 4714"), "its command runs")
    else:
        until(making.exists, "it is being made", pause_seconds=0.001)
    runner.kill()
    runner.wait()
    runner.stdout.close()
    until(lambda: podman("ps", "--all", "--quiet").stdout == "", "the container is gone")
    until(lambda: not processes_of("podman", "conmon", "runc", "crun") - before, "nothing of it is left")
    assert not is_running("sleep 4714")


def processes_of(*programs: str) -> set[int]:
    found = psutil.process_iter(["cmdline"])
    return {each.pid for each in found if Path((each.info["cmdline"] or [""])[0]).name in programs}


async def test_the_proxy_leads_to_allowed_hosts_alone(tmp_path: Path, web: int) -> None:
    sandbox = ContainerSandbox("podman", OutboundPolicy(["127.0.0.1"]))
    script = f"""
        echo $https_proxy; export http_proxy
        no_proxy= wget -q -O - http://127.0.0.1:{web}/
        for target in "GET http://127.0.0.1:1/" "GET http://example.com/" "CONNECT 127.0.0.1:22" \
            "CONNECT 127.0.0.1:{web}"; do
            printf "$target HTTP/1.1\r\n\r\n" | nc -w 5 127.0.0.1 3128 | head -n 1
        done
    """
    started = await held(sandbox, script, tmp_path / "work", allowed_hosts=(f"127.0.0.1:{web}",))
    await started.ended()
    used = started.process.usage()
    lines = started.output.replace("\r", "").splitlines()
    assert lines[:2] == ["http://127.0.0.1:3128", f"served / to 127.0.0.1:{web}"]
    assert [line.split(" ")[1] for line in lines[2:]] == ["403", "403", "403", "200"]
    assert used.received_bytes > used.sent_bytes > 50


async def test_the_proxy_leads_into_no_internal_network(sandbox: ContainerSandbox, tmp_path: Path, web: int) -> None:
    script = f"""
        for host in 127.0.0.1 localhost 169.254.169.254 [::1] 10.0.0.1; do
            printf "GET http://$host:{web}/ HTTP/1.1\r\n\r\n" | nc -w 5 127.0.0.1 3128 | head -n 1 | cut -d' ' -f2
        done
    """
    allowed = tuple(f"{host}:{web}" for host in ("127.0.0.1", "localhost", "169.254.169.254", "::1", "10.0.0.1"))
    output = await said(sandbox, script, tmp_path / "work", allowed_hosts=allowed)
    assert output.split() == ["403"] * 5


@needs_device
def test_members_reach_each_other_and_nothing_else(tmp_path: Path) -> None:
    serve = "ip -o -4 addr show gang0 | grep -o 'inet [^ ]*'; echo hello | nc -l -p 5000"
    ask = "exec 2>/dev/null; until nc 10.77.0.1 5000 < /dev/null; do :; done; nc 10.0.0.1 80 </dev/null || echo alone"
    commands = [("sh", "-c", script) for script in (serve, ask)]
    with ready_gang(tmp_path, *commands, image=IMAGE) as runners:
        for member, runner in enumerate(runners):
            assert runner.state().network.reach == "private"
            assert runner.post("/go", go(runners, member)).status_code == 200
        for runner in runners:
            end = runner.ended().record.end
            assert end is not None
            assert (end.kind, end.exit_code) == ("exit", 0), runner.log()
        assert [runner.log().splitlines() for runner in runners] == [
            ["inet 10.77.0.1/16"],
            ["hello", "alone"],
        ]
