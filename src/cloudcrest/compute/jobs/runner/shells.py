"""Terminals inside a running command's sandbox: output kept for whoever reads it, input and size taken."""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios

from cloudcrest.compute.sandbox.api import SandboxProcess
from cloudcrest.kernel.errors import Conflict, LimitExceeded, NotFound
from cloudcrest.kernel.ids import NewId

MAX_SHELLS = 8
MAX_KEPT_BYTES = 256 * 1024
MAX_INPUT_BYTES = 64 * 1024
MAX_SIDE = 1000
_READ_BYTES = 65_536
_IDLE_SECONDS = 3600.0
_TERMINATE_SECONDS = 1.0


class Shell:
    """One terminal. `begin`, `end`: offsets of the output that is kept."""

    def __init__(self, shell_id: str, master_fd: int, process: SandboxProcess) -> None:
        self.id = shell_id
        self.begin = 0
        self.end = 0
        self.exit_code: int | None = None
        self.is_open = True
        self._kept = bytearray()
        self._master_fd = master_fd
        self._process = process
        self._changed = asyncio.Event()
        self._used_at = asyncio.get_running_loop().time()
        os.set_blocking(master_fd, False)
        asyncio.get_running_loop().add_reader(master_fd, self._read)
        self._waiter = asyncio.create_task(self._wait())

    async def read(self, offset: int, wait_seconds: float) -> tuple[int, bytes]:
        """The output from `offset` on, as far as it is kept, waiting for some; empty where none comes."""
        self._used_at = asyncio.get_running_loop().time()
        if offset >= self.end and self.is_open:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_seconds)
        begin = min(max(offset, self.begin), self.end)
        return begin, bytes(self._kept[begin - self.begin :])

    async def write(self, data: bytes) -> None:
        """Types. Raises `Conflict` where it has ended or does not read what it is sent."""
        self._used_at = asyncio.get_running_loop().time()
        for _ in range(100):
            if not self.is_open:
                raise Conflict("the shell has ended")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._master_fd, data) :]
            if not data:
                return
            await asyncio.sleep(0.02)
        raise Conflict("the shell does not read what is typed")

    def resize(self, columns: int, rows: int) -> None:
        """Tells its programs the size of the window."""
        if self.is_open:
            set_size(self._master_fd, columns, rows)

    def is_idle(self, now: float) -> bool:
        """Whether nobody has used it for long."""
        return now - self._used_at > _IDLE_SECONDS

    async def close(self) -> None:
        """Hangs up, and kills what stays."""
        self._process.signal(signal.SIGHUP)
        try:
            await asyncio.wait_for(asyncio.shield(self._waiter), _TERMINATE_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._waiter

    def _read(self) -> bool:
        try:
            chunk = os.read(self._master_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # the last program on it is gone
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._master_fd)
            return False
        self._kept += chunk
        self.end += len(chunk)
        surplus = len(self._kept) - MAX_KEPT_BYTES
        if surplus > 0:
            del self._kept[:surplus]
            self.begin += surplus
        self._changed.set()
        return True

    async def _wait(self) -> None:
        end = await self._process.wait()
        for _ in range(64):
            if not self._read():
                break
        asyncio.get_running_loop().remove_reader(self._master_fd)
        self.exit_code = end.exit_code if end.exit_code is not None else 128 + (end.signal or 0)
        self.is_open = False
        os.close(self._master_fd)
        self._changed.set()


class Shells:
    """The terminals of one member."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._shells: dict[str, Shell] = {}

    async def open(self, process: SandboxProcess, argv: tuple[str, ...], columns: int, rows: int) -> Shell:
        """Opens one. Raises `LimitExceeded` past `MAX_SHELLS`, `Conflict` where the command has ended."""
        now = asyncio.get_running_loop().time()
        for shell in [shell for shell in self._shells.values() if shell.is_idle(now)]:
            await shell.close()
            self._shells.pop(shell.id, None)
        self._forget_ended()
        if len(self._shells) >= MAX_SHELLS:
            raise LimitExceeded(f"this job has {MAX_SHELLS} shells already", hint="end one of them first")
        master_fd, slave_fd = os.openpty()
        try:
            set_size(master_fd, columns, rows)
            entered = await process.enter(argv, slave_fd, {"TERM": "xterm-256color"})
        except BaseException:
            os.close(master_fd)
            raise
        finally:
            os.close(slave_fd)
        shell = Shell(self._new_id("shell"), master_fd, entered)
        self._shells[shell.id] = shell
        return shell

    def find(self, shell_id: str) -> Shell:
        """One of them; it stays a while after its end. Raises `NotFound`."""
        shell = self._shells.get(shell_id)
        if shell is None:
            raise NotFound("there is no such shell", hint="open another")
        return shell

    async def close(self, shell_id: str) -> None:
        """Ends one and forgets it."""
        shell = self._shells.pop(shell_id, None)
        if shell is not None and shell.is_open:
            await shell.close()

    async def close_all(self) -> None:
        """Ends them all; their last output stays."""
        await asyncio.gather(*(shell.close() for shell in self._shells.values() if shell.is_open))

    def _forget_ended(self) -> None:
        if len(self._shells) >= MAX_SHELLS:
            for shell in [shell for shell in self._shells.values() if not shell.is_open]:
                del self._shells[shell.id]


def set_size(terminal_fd: int, columns: int, rows: int) -> None:
    """Sets a terminal's size, within sense."""
    size = struct.pack("HHHH", min(max(rows, 1), MAX_SIDE), min(max(columns, 1), MAX_SIDE), 0, 0)
    fcntl.ioctl(terminal_fd, termios.TIOCSWINSZ, size)
