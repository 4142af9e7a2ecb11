"""A real Podman with a store of its own, and an image made of this machine's busybox."""

import contextlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

IMAGE = "localhost/cloudcrest/busy:1"
_TRY_SECONDS = 20.0
_OLD_MACHINES = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
"""For machines with hybrid control groups, which crun refuses, and whose root may not raise its limits."""
_STORE = """
[storage]
driver = "vfs"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


def podman(*arguments: str, seconds: float = _TRY_SECONDS) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=seconds, check=False)


@contextlib.contextmanager
def own_podman(folder: Path) -> Iterator[str]:
    """Configured by the environment until the block ends, with `IMAGE` in its store; why it cannot be used, empty: it
    can. An operator's own CONTAINERS_CONF holds; else what works is found out.
    """
    if os.geteuid() != 0 or shutil.which("podman") is None or shutil.which("busybox") is None:
        yield "needs root, podman and busybox"
        return
    before = dict(os.environ)
    (folder / "storage.conf").write_text(_STORE.format(folder=folder))
    os.environ["CONTAINERS_STORAGE_CONF"] = str(folder / "storage.conf")
    given = os.environ.get("CONTAINERS_CONF")
    try:
        problem = ""
        for text in [Path(given).read_text()] if given else ["[engine]\n", _OLD_MACHINES]:
            apart = f'[engine]\ntmp_dir = "{folder}/state"\nlock_type = "file"\nevents_logger = "none"\n'
            (folder / "containers.conf").write_text(text.replace("[engine]\n", apart, 1))
            os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
            problem = _try(folder)
            if not problem:
                break
        yield problem
    finally:
        podman("rm", "--all", "--force", "--time", "0")
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


def _try(folder: Path) -> str:
    """Why no container can be started; empty: one was."""
    archive = folder / "image.tar"
    if not archive.exists():
        _make(archive)
    for words in (
        ("import", str(archive), IMAGE),
        ("run", "--rm", "--network", "none", "--user", "65534:65534", "--init", "--memory", "64m", IMAGE, "true"),
    ):
        try:
            tried = podman(*words)
        except subprocess.TimeoutExpired:
            return f"podman {words[0]} takes too long here"
        if tried.returncode != 0:
            return f"podman {words[0]} fails here: {tried.stderr.strip()}"
    return ""


def _make(archive: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "work", "suid"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        secret = tarfile.TarInfo("suid/id")  # as a program of root that whoever starts it becomes
        with open(os.path.realpath(busybox), "rb") as program:
            secret.size, secret.mode = os.fstat(program.fileno()).st_size, 0o4755
            tar.addfile(secret, program)
