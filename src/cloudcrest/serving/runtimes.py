"""Runtimes: heavy Python environments (vLLM, sound), made on first use and cached by the hash of what is in them.

<runtimes>/<name>-<hash>/          ready when it is there: made beside it and renamed into place
<runtimes>/<name>-<hash>.lock      held while it is being made, so that one process makes it and the rest wait
"""

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import site
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from cloudcrest.kernel.errors import Unavailable

RUNTIME_SETS: dict[str, str] = {name: f"{name}.txt" for name in ("vllm-cpu", "vllm-cuda", "piper", "moonshine")}
"""The pinned requirement sets, in runtime_sets/."""

_LOCK_POLL_SECONDS = 0.2
_KEPT_LINES = 20


class Runtimes:
    """The runtimes below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, name: str) -> Path:
        """The interpreter of a runtime, whether or not it has been made."""
        return self._path(name) / "bin" / "python"

    def packages(self, name: str) -> Path:
        """Where a runtime's packages lie, for `use_packages`."""
        return self._path(name) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    async def ensure(self, name: str, on_progress: Callable[[str], None]) -> Path:
        """Makes the runtime where it is missing; returns its interpreter. Raises `Unavailable` with uv's last words."""
        path = self._path(name)
        if path.is_dir():
            return self.python(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        on_progress(f"waits for the runtime {name}")
        async with _locked(path.with_name(path.name + ".lock")):
            if not path.is_dir():
                await self._make(name, path, on_progress)
        return self.python(name)

    async def _make(self, name: str, path: Path, on_progress: Callable[[str], None]) -> None:
        partial = path.with_name(path.name + ".partial")
        if partial.exists():
            await asyncio.to_thread(shutil.rmtree, partial)
        requirements = str(files("cloudcrest.serving") / "runtime_sets" / RUNTIME_SETS[name])
        unwanted = _unwanted(_requirements(name))
        for argv in make_commands(find_uv(), partial, requirements, os.environ.get("PIP_FIND_LINKS"), unwanted):
            await _run(argv, name, on_progress)
        partial.rename(path)
        on_progress(f"the runtime {name} is ready")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}-{_digest(name)}"


def use_packages(folder: Path) -> None:
    """Makes a runtime's packages importable in this process, behind its own: those that both have are ours.

    A runtime is made for the very interpreter that makes it, so that compiled packages fit.
    """
    site.addsitedir(str(folder))


def find_uv() -> str | None:
    """uv beside this interpreter, on the path, or where the Makefile put it."""
    beside = Path(sys.executable).with_name("uv")
    bootstrapped = Path(sys.prefix).parent / ".uv" / "bin" / "uv"
    for candidate in (beside, bootstrapped):
        if candidate.is_file():
            return str(candidate)
    return shutil.which("uv")


def make_commands(
    uv: str | None, folder: Path, requirements: str, find_links: str | None, unwanted: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """The commands that make a runtime in `folder`: with uv where there is one, else with venv and pip.

    `unwanted`: packages that come as dependencies and are taken out again.
    """
    python = str(folder / "bin" / "python")
    links = ("--find-links", find_links) if find_links else ()
    if uv is None:
        removal = [(python, "-m", "pip", "uninstall", "--yes", *unwanted)] if unwanted else []
        return [
            (sys.executable, "-m", "venv", str(folder)),
            (python, "-m", "pip", "install", "--no-input", *links, "-r", requirements),
            *removal,
        ]
    removal = [(uv, "pip", "uninstall", "--no-config", "--python", python, *unwanted)] if unwanted else []
    return [
        (uv, "venv", "--no-config", "--python", sys.executable, "--relocatable", str(folder)),
        (uv, "pip", "install", "--no-config", "--python", python, *links, "-r", requirements),
        *removal,
    ]


def _requirements(name: str) -> str:
    return (files("cloudcrest.serving") / "runtime_sets" / RUNTIME_SETS[name]).read_text()


def _unwanted(requirements: str) -> tuple[str, ...]:
    """The packages of a `# without: …` line."""
    lines = [line.removeprefix("# without:") for line in requirements.splitlines() if line.startswith("# without:")]
    return tuple(name for line in lines for name in line.split())


def _digest(name: str) -> str:
    text = _requirements(name)
    made_for = f"{text}\n{platform.python_version()}\n{platform.machine()}\n{sys.prefix}"
    return hashlib.sha256(made_for.encode()).hexdigest()[:12]


async def _run(argv: tuple[str, ...], name: str, on_progress: Callable[[str], None]) -> None:
    """Runs one command; its last line is the progress, and the reason when it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 - asked for with PIPE
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        async for line in process.stdout:
            text = line.decode(errors="replace").strip()
            if text:
                lines.append(text)
                on_progress(f"makes the runtime {name}: {text[:200]}")
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise Unavailable(
            f"the runtime {name} could not be made: {' / '.join(list(lines)[-3:])[:600] or f'exit code {code}'}",
            hint="check the network and the disk; PIP_FIND_LINKS names a folder of local wheels",
        )


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Holds an exclusive lock on the file, waiting without blocking the event loop."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
