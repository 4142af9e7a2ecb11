"""The data folder of a cloud: its lock, its format and its secrets.

VERSION  connection.json  secrets.json  node-token  postgres/  logs/  models/  runtimes/  objects/
run/{lock, up.json, node.sock, agent.sock, postgres/, settings/}  nodes/<name>/
regions/local/{feed.json, gateway/, spool/}
"""

import fcntl
import os
import secrets
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec

from cloudcrest.infra.files import free_bytes, write_atomic
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.errors import SetupError
from cloudcrest.kernel.units import GIB, MIB, format_bytes

FORMAT = 1
MIN_FREE_BYTES = 2 * GIB
MIN_FREE_BYTES_AGAIN = 256 * MIB
"""What a folder that was made before needs: its weights and its database are there."""
_MAX_SOCKET_FOLDER_BYTES = 80
_LOCK_PATIENCE_SECONDS = 0.5
_FOLDERS = ("logs", "models", "runtimes", "objects", "run/settings", "regions/local/gateway", "regions/local/spool")


class Secrets(msgspec.Struct, frozen=True):
    """Made on the first start. `master_key` seals what the database keeps secret; the others are bearer tokens."""

    master_key: str
    region_token: str
    gateway_token: str
    first_api_key: str
    operator_api_key: str
    probe_api_key: str


class UpState(msgspec.Struct, frozen=True, omit_defaults=True):
    """`run/up.json`: what runs here now. `processes` are the pids of the processes that are always there.

    `certificate`: the file with the chain that is shown, where TLS is on. `ray_address`: where other nodes join.
    """

    pid: int
    base_url: str
    started_at: str
    is_ready: bool = False
    socket_folder: str = ""
    certificate: str = ""
    ray_address: str = ""
    processes: dict[str, int] = {}


class _Version(msgspec.Struct):
    format: int


class DataFolder:
    """An opened data folder: locked by this process until it ends, of this version's format."""

    def __init__(self, root: Path, lock_fd: int) -> None:
        self.root = root
        self._lock_fd = lock_fd
        self.logs = root / "logs"
        self.run = root / "run"
        self.settings = root / "run" / "settings"
        self.postgres = root / "postgres"
        self.socket_folder = socket_folder(root)

    @classmethod
    def open(cls, root: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> Self:
        """Opens or makes it. Raises `SetupError` where it is in use, foreign, of another format, read-only or full."""
        root = root.expanduser().absolute()
        try:
            return cls._open(root, min_free_bytes)
        except OSError as error:
            raise SetupError(
                f"the data folder {root} cannot be used: {error.strerror} ({error.filename or root})",
                hint="make it writable for this user, or choose another one with --data",
            ) from error

    @classmethod
    def _open(cls, root: Path, min_free_bytes: int) -> Self:
        _refuse_what_is_not_ours(root)
        needed = min(min_free_bytes, MIN_FREE_BYTES_AGAIN) if (root / "connection.json").exists() else min_free_bytes
        free = free_bytes(root)
        if free < needed:
            raise SetupError(
                f"the disk of {root} has {format_bytes(free)} left, Cloudcrest needs {format_bytes(needed)}",
                hint="free some space, or choose another disk with --data",
            )
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / "run").mkdir(mode=0o700, exist_ok=True)
        folder = cls(root, _lock(root))
        for name in _FOLDERS:
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (root / "VERSION").exists():
            write_atomic(root / "VERSION", msgspec.json.encode(_Version(FORMAT)), 0o644)
        return folder

    def secrets(self) -> Secrets:
        """The folder's secrets, made when there are none. Raises `SetupError` where the file is damaged."""
        path = self.root / "secrets.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Secrets)
        except FileNotFoundError:
            if (self.postgres / "PG_VERSION").exists():
                raise SetupError(
                    f"{path} is missing, without it this cloud's database cannot be read",
                    hint="restore it from a backup, or start afresh with another --data folder",
                ) from None
            fresh = Secrets(
                master_key=Sealer.new_master_key(),
                region_token=f"rt-cc-{secrets.token_urlsafe(32)}",
                gateway_token=f"gt-cc-{secrets.token_urlsafe(32)}",
                first_api_key=_new_api_key(),
                operator_api_key=_new_api_key(),
                probe_api_key=_new_api_key(),
            )
            write_atomic(path, msgspec.json.encode(fresh))
            return fresh
        except (OSError, ValueError) as error:
            raise SetupError(f"{path} cannot be read: {error}", hint="restore it from a backup") from error

    def write_up_state(self, state: UpState) -> None:
        """Says in `run/up.json` what runs here."""
        write_atomic(self.run / "up.json", msgspec.json.format(msgspec.json.encode(state)), 0o600)

    def write_connection(self, base_url: str, keys: Secrets, certificate: Path | None = None) -> None:
        """Says in `connection.json` how scripts and the command line reach this cloud."""
        connection = {
            "base_url": base_url,
            "api_key": keys.first_api_key,
            "operator_key": keys.operator_api_key,
        }
        if certificate is not None:
            connection["certificate"] = str(certificate)
        write_atomic(self.root / "connection.json", msgspec.json.format(msgspec.json.encode(connection)), 0o600)

    def close(self) -> None:
        """Says that nothing runs here any more, and lets go of the lock."""
        (self.run / "up.json").unlink(missing_ok=True)
        os.close(self._lock_fd)


def _refuse_what_is_not_ours(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise SetupError(f"{root} is a file, not a folder", hint="choose another data folder with --data")
    version = root / "VERSION"
    if not version.exists():
        # `run` alone is what a start that was killed right at its beginning leaves.
        if any(entry.name != "run" for entry in root.iterdir()):
            raise SetupError(
                f"{root} has files in it and is no data folder of Cloudcrest",
                hint="choose an empty or a new folder with --data",
            )
        return
    try:
        found = msgspec.json.decode(version.read_bytes(), type=_Version).format
    except (OSError, ValueError):
        raise SetupError(
            f"{version} cannot be read, so this is no data folder of Cloudcrest",
            hint="choose another folder with --data",
        ) from None
    if found > FORMAT:
        raise SetupError(
            f"the data folder {root} was written by a newer Cloudcrest (format {found}, this one reads {FORMAT})",
            hint="upgrade Cloudcrest, or choose another folder with --data",
        )
    if found < FORMAT:
        raise SetupError(
            f"the data folder {root} was written by an older Cloudcrest (format {found}, this one reads {FORMAT})",
            hint="start the older version, or choose another folder with --data",
        )


def _lock(root: Path) -> int:
    fd = take_lock(root / "run" / "lock")
    if fd is not None:
        return fd
    pid, url = _holder(root)
    raise SetupError(
        f"a cloud already runs on {root} (process {pid}{url})",
        hint=f"use that one, stop it with `cloudcrest down --data {root}`, or choose another --data folder",
    )


def take_lock(path: Path) -> int | None:
    """Locks a file for as long as the descriptor is open, and writes this process's number to it. None: another has it.

    Patient for half a second: others look whether it is locked by taking it for a moment.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(fd)
            return None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        return fd


def _holder(root: Path) -> tuple[str, str]:
    """Who holds the lock, as far as files tell: its pid, and ", at <url>" once it serves."""
    pid = (root / "run" / "lock").read_text() or "unknown"
    try:
        state = msgspec.json.decode((root / "run" / "up.json").read_bytes(), type=UpState)
    except (OSError, ValueError):
        return pid, ""
    return pid, f", at {state.base_url}" if str(state.pid) == pid else ""


def socket_folder(root: Path) -> Path:
    """Where Unix sockets go: `run/`, or a folder of the system's temporary one where that path is too long for them."""
    folder = root / "run"
    return folder if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER_BYTES else short_folder(root)


def short_folder(root: Path, purpose: str = "") -> Path:
    """A folder with a short path, always the same for this one. Raises `SetupError` where another user has it."""
    name = sha256(os.fsencode(root)).hexdigest()[: 8 if purpose else 16]
    short = Path(tempfile.gettempdir()) / f"cloudcrest-{purpose}{os.getuid()}-{name}"
    if short.exists() and (short.is_symlink() or short.stat().st_uid != os.getuid()):
        raise _somebody_elses(short)
    return short


def private_folder(folder: Path) -> Path:
    """Makes it, for this user alone whatever is in it. Raises `SetupError` where another user was faster."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise _somebody_elses(folder)
    folder.chmod(0o700)
    return folder


def _somebody_elses(folder: Path) -> SetupError:
    return SetupError(f"{folder} belongs to somebody else", hint="choose another data folder with --data")


def _new_api_key() -> str:
    return f"sk-cc-{secrets.token_urlsafe(32)}"
