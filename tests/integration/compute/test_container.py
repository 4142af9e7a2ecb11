"""Containers over a stand-in for a runtime: what it is told, and what becomes of a container whose runner is gone."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.compute.sandbox.api import Bind, SandboxSpec
from cloudcrest.compute.sandbox.container import ContainerSandbox
from cloudcrest.compute.sandbox.runtime import end_left
from cloudcrest.infra.outbound import OutboundPolicy
from tests.support.runners import Runner, spec
from tests.support.waiting import until

# ruff: noqa: ASYNC230, ASYNC240 - small files and quick programs
pytestmark = pytest.mark.anyio
RUNTIME = """#!{python}
import json, os, signal, subprocess, sys, time
home = "{home}"
arguments = sys.argv[1:]
word = arguments[0]
with open(home + "/calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if word == "create":
    label = arguments[arguments.index("--label") + 1]
    with open(arguments[arguments.index("--env-file") + 1]) as file:
        is_in_memory = "memfd" in os.readlink(f"/proc/self/fd/{{file.fileno()}}")
        assert is_in_memory or os.fstat(file.fileno()).st_mode & 0o077 == 0
        json.dump([label, file.read()], open(home + "/created", "w"))
if word == "start":
    label, variables = json.load(open(home + "/created"))
    print(variables)
    os.remove(home + "/created")
    kept = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(home + "/containers", "a") as containers:
        containers.write(f"{{kept.pid}} {{label}}\\n")
    print("started", flush=True)
    code = kept.wait()
    sys.exit(code if code >= 0 else 128 - code)
if word == "ps" and os.path.exists(home + "/containers"):
    wanted = arguments[arguments.index("--filter") + 1].removeprefix("label=")
    for line in open(home + "/containers"):
        pid, label = line.split()
        if label == wanted and os.path.exists("/proc/" + pid):
            print(pid)
if word == "rm":
    for pid in arguments[2:]:
        os.kill(int(pid), signal.SIGKILL)
"""


class Stand:
    """A stand-in for podman, first on the path."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "runtime"
        (self.home / "bin").mkdir(parents=True)
        program = self.home / "bin/podman"
        program.write_text(RUNTIME.format(python=sys.executable, home=self.home))
        program.chmod(0o755)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def is_running(self) -> bool:
        """Whether a container runs; its parent may be gone, and nobody else waits for it then."""
        pids = [line.split()[0] for line in (self.home / "containers").read_text().splitlines()]
        return any(_state(pid) not in ("", "Z") for pid in pids)

    def kill(self) -> None:
        if (self.home / "containers").exists():
            for line in (self.home / "containers").read_text().splitlines():
                subprocess.run(["kill", "-9", line.split()[0]], check=False, capture_output=True)


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    made = Stand(tmp_path)
    monkeypatch.setenv("PATH", f"{made.home}/bin:{os.environ['PATH']}")
    yield made
    made.kill()


def _spec(folder: Path, **changes: Any) -> SandboxSpec:
    work = folder / "member/work"
    work.mkdir(parents=True)
    return SandboxSpec("job_1-1-0", ("true",), work, {"TOKEN": "sesame"}, image="alpine", **changes)


async def test_its_secrets_are_on_no_disk_and_its_folders_its_own(stand: Stand, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("of the volume")
    wanted = _spec(tmp_path, binds=(Bind(volume, "/data", is_writable=True),))
    read_fd, write_fd = os.pipe()
    process = await ContainerSandbox("podman", OutboundPolicy()).start(wanted, write_fd)
    os.close(write_fd)
    with open(read_fd) as output:
        assert await asyncio.to_thread(output.readline) == "HOME=/work\n"
        assert output.readline() == "TOKEN=sesame\n"
        assert await asyncio.to_thread(output.readline) == "started\n"
        files = [path for path in tmp_path.rglob("*") if path.is_file() and "sesame" in path.read_text()]
        assert files == []
        if os.geteuid() == 0:
            assert {path.stat().st_uid for path in (wanted.work_folder, volume, volume / "file")} == {65534}
        (run,) = [call for call in stand.calls() if call[0] == "create"]
        assert "sesame" not in " ".join(run)
        process.signal(15)
        until(lambda: any(call[0] == "kill" for call in stand.calls()), "the runtime is told")
        end_left("another")
        assert stand.is_running()
        end_left(wanted.id)
        assert (await process.wait()).signal == 9
    assert not stand.is_running()


async def test_a_container_whose_client_is_killed_ends_with_it(stand: Stand, tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    process = await ContainerSandbox("podman", OutboundPolicy()).start(_spec(tmp_path), write_fd)
    os.close(write_fd)
    with open(read_fd) as output:
        until(lambda: "started" in output.readline(), "it has started")
        (client,) = [child for child in _children(os.getpid()) if b"--attach" in _command(child)]
        os.kill(client, 9)
        assert (await process.wait()).signal == 9
    assert not stand.is_running()


async def test_where_files_cannot_be_in_memory_variables_lie_in_one_until_they_are_read(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    read_fd, write_fd = os.pipe()
    process = await ContainerSandbox("podman", OutboundPolicy()).start(_spec(tmp_path), write_fd)
    os.close(write_fd)
    assert not [*(tmp_path / "member").glob("*.env")]
    with open(read_fd) as output:
        assert [output.readline() for _ in range(2)] == ["HOME=/work\n", "TOKEN=sesame\n"]
        until(lambda: "started" in output.readline(), "it has started")
        end_left("job_1-1-0")
        await process.wait()
    assert [*(tmp_path / "member").iterdir()] == [tmp_path / "member/work"]


def test_a_container_whose_runner_is_killed_ends_by_its_guard(stand: Stand, tmp_path: Path) -> None:
    code = (
        "import asyncio; from pathlib import Path\n"
        "from cloudcrest.compute.sandbox.api import SandboxSpec\n"
        "from cloudcrest.compute.sandbox.container import ContainerSandbox\n"
        "from cloudcrest.infra.outbound import OutboundPolicy\n"
        "async def main():\n"
        f"    spec = SandboxSpec('killed', ('true',), Path({str(tmp_path)!r}), image='alpine')\n"
        "    await (await ContainerSandbox('podman', OutboundPolicy()).start(spec, 1)).wait()\n"
        "asyncio.run(main())"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    output = runner.stdout
    assert output is not None
    until(lambda: "started" in output.readline(), "it has started")
    assert stand.is_running()
    runner.kill()
    runner.wait()
    output.close()
    until(lambda: not stand.is_running(), "the container is gone")


def test_a_runner_ends_the_container_of_the_one_before(stand: Stand, tmp_path: Path) -> None:
    first = Runner(tmp_path / "member", "auto")
    first.run(spec(("true",), image="alpine"))
    until((stand.home / "containers").exists, "it has started")
    guards = [child for child in _children(first.process.pid) if b"read -r next" in _command(child)]
    assert len(guards) == 1
    for pid in (guards[0], first.process.pid):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    first.process.wait()
    first.http.close()
    assert stand.is_running()
    second = Runner(tmp_path / "member", "auto")
    try:
        assert second.state().record.end is not None
        assert not stand.is_running()
    finally:
        second.close()


def _children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
