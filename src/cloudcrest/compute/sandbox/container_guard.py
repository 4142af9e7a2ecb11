"""What stands beside a container: what its runtime reads, and who ends it where its runner is gone."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any, Self

import msgspec

from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.compute.sandbox.giving import in_memory
from cloudcrest.compute.sandbox.runtime import LABEL, RuntimeFiles, name_of
from cloudcrest.compute.sandbox.view import FILES
from cloudcrest.kernel.errors import Unavailable

_GUARD = """
while read -r next; do client=$next; done
looks=0
while [ -n "$client" ] && kill -0 "$client" 2>/dev/null && [ $((looks += 1)) -lt 600 ]; do sleep 0.1; done
found=$("$0" ps --all --quiet --filter "label=$1")
[ -z "$found" ] || exec "$0" rm --force $found
"""
"""Ends a container whose runner is gone: of who holds the other end of its standard input the kernel lets go. A client
that is making the container then ends first: it might bring one that was not there to be found; and killed in the midst
of it, it would leave processes behind that the runtime knows nothing of.
"""


class Told:
    """Files for the runtime to read. The command's variables, secrets among them, are on no disk where the system can
    hold a file in memory, else readable by this user alone, beside the work folder; there the others are, which hold
    no secret.
    """

    def __init__(self, text: str, profile: Mapping[str, Any] | None, spec: SandboxSpec) -> None:
        self._fd: int | None = None
        beside = spec.work_folder.parent
        self._variables, self._hosts, self._profile = (
            beside / f"{name_of(spec)}.{kind}" for kind in ("env", "hosts", "seccomp")
        )
        self._hosts.write_text(FILES["hosts"])
        self._hosts.chmod(0o444)
        if profile is not None:
            self._profile.write_bytes(msgspec.json.encode(profile))
        if hasattr(os, "memfd_create"):
            self._fd = in_memory(text.encode())
            variables = f"/proc/{os.getpid()}/fd/{self._fd}"
        else:
            self._variables.touch(mode=0o600)
            self._variables.write_text(text)
            variables = str(self._variables)
        self.files = RuntimeFiles(variables, str(self._hosts), "" if profile is None else str(self._profile))

    def was_read(self) -> None:
        """The runtime has its variables; again changes nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._variables.unlink(missing_ok=True)

    def forget(self) -> None:
        """Nothing of it is used any more; again changes nothing."""
        self.was_read()
        self._hosts.unlink(missing_ok=True)
        self._profile.unlink(missing_ok=True)


class Guard:
    """A process beside the container that ends it when this one is gone, however it went."""

    def __init__(self, process: asyncio.subprocess.Process, write_fd: int) -> None:
        self._process = process
        self._write_fd = write_fd

    @classmethod
    async def start(cls, runtime: str, spec: SandboxSpec) -> Self:
        """Raises `Unavailable`."""
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _GUARD, runtime, f"{LABEL}={spec.id}"),
                stdin=read_fd,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            os.close(write_fd)
            raise Unavailable(f"nothing could end the container: {error}") from error
        finally:
            os.close(read_fd)
        return cls(process, write_fd)

    def watch(self, client_pid: int | None) -> None:
        """This client runs that makes the container; None: it has ended."""
        with contextlib.suppress(OSError):
            os.write(self._write_fd, f"{client_pid or ''}\n".encode())

    async def dismiss(self) -> None:
        """There is nothing to end any more."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        os.close(self._write_fd)
