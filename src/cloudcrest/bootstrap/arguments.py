"""The flags of `cloudcrest up`. They win over environment variables (settings.py lists those)."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.bootstrap.settings import UpSettings
from cloudcrest.compute.fabric.ray.command import check_token, host_and_port, label_of
from cloudcrest.gateway.shared_limits import MAX_WORKERS
from cloudcrest.infra.settings import load_settings
from cloudcrest.kernel.errors import SetupError

_OF_RAY = ("node_address", "node_labels", "node_token_file", "ray_port", "ray_address")
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(UpSettings)}
_LOG_LEVELS = ("debug", "info", "warning", "error")


def up_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> UpSettings:
    """What `up` was told. Raises `SetupError` naming what is wrong."""
    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    given.setdefault("data", default_data_folder(environment))
    given.setdefault(
        "gateway_workers", environment.get("CLOUDCREST_GATEWAY_WORKERS") or default_gateway_workers(_cores())
    )
    settings = load_settings(UpSettings, environment, overrides=given)
    if settings.database_url is not None:
        settings = msgspec.structs.replace(settings, database_url=database_url(settings.database_url))
    if settings.region_database_url is not None:
        name = "CLOUDCREST_REGION_DATABASE_URL"
        settings = msgspec.structs.replace(
            settings, region_database_url=database_url(settings.region_database_url, name)
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SetupError("TLS needs a certificate and its key", hint="give both --tls-cert and --tls-key, or neither")
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not path.is_file():
            raise SetupError(f"there is no file {path}", hint="check --tls-cert and --tls-key")
    if not 0 <= settings.port <= 65535:
        raise SetupError(f"{settings.port} is no port", hint="choose one from 1024 to 65535 with --port, or 0 for any")
    if not 1 <= settings.gateway_workers <= MAX_WORKERS:
        raise SetupError(
            f"{settings.gateway_workers} gateway workers cannot be run",
            hint=f"choose from 1 to {MAX_WORKERS} with --gateway-workers",
        )
    if settings.presidio and find_spec("presidio_analyzer") is None:
        raise SetupError(
            "Presidio is not installed", hint="`pip install cloudcrest[presidio]`, or leave CLOUDCREST_PRESIDIO out"
        )
    _check_fabric(settings)
    if settings.log_level.lower() not in _LOG_LEVELS:
        raise SetupError(f"'{settings.log_level}' is no log level", hint=f"choose one of {', '.join(_LOG_LEVELS)}")
    return settings


def _check_fabric(settings: UpSettings) -> None:
    if settings.fabric == "local":
        for name in _OF_RAY:
            if getattr(settings, name) != _DEFAULTS[name]:
                variable = f"CLOUDCREST_{name.upper()}"
                raise SetupError(
                    f"{variable} or its flag is for a cloud over Ray", hint="add --fabric ray, or leave it out"
                )
        return
    require_ray()
    for label in settings.node_labels:
        label_of(label)
    if settings.ray_address is not None:
        host_and_port(settings.ray_address)
    if settings.ray_address is not None and settings.node_token_file is None:
        raise SetupError(
            "a Ray cluster that runs already has its own token", hint="name its file with --node-token-file"
        )
    if settings.node_token_file is not None and not settings.node_token_file.is_file():
        raise SetupError(f"there is no file {settings.node_token_file}", hint="check --node-token-file")
    if settings.node_token_file is not None:
        check_token(settings.node_token_file)


def require_ray() -> None:
    """Raises `SetupError` where Ray is not installed."""
    if find_spec("ray") is None:
        raise SetupError("Ray is not installed", hint="`pip install cloudcrest[ray]`; in a checkout: `make up RAY=1`")


def database_url(given: str, name: str = "CLOUDCREST_DATABASE_URL (--database-url)") -> str:
    """A PostgreSQL URL with the driver that is used here. Raises `SetupError` for another database's."""
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise SetupError(
            f"{name} is no PostgreSQL URL",
            hint="write postgresql://user:password@host/database",
        )
    return f"postgresql+psycopg://{rest}"


def default_data_folder(environment: Mapping[str, str]) -> str:
    """CLOUDCREST_DATA, or the user's own folder for data."""
    if environment.get("CLOUDCREST_DATA"):
        return environment["CLOUDCREST_DATA"]
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(base) / "cloudcrest")


def default_gateway_workers(cores: int) -> int:
    """How many gateway processes so many cores get: replicas work on the same ones."""
    return 1 if cores <= 2 else min(8, max(2, cores // 4))


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudcrest up",
        description="Runs the cloud on this machine until Ctrl-C.",
        epilog="Each flag has an environment variable: CLOUDCREST_PORT, CLOUDCREST_DATA, … Docs: README.md.",
        argument_default=None,
    )

    def add(flag: str, help_text: str, **options: Any) -> None:
        parser.add_argument(flag, help=help_text, **options)

    add("--data", "data folder (default ~/.local/share/cloudcrest)", metavar="DIR")
    add("--host", "address to listen on (default 127.0.0.1)")
    add("--port", "port to listen on (default 8080; 0 takes a free one)")
    add("--tls-cert", "certificate chain in PEM; turns TLS on", metavar="FILE")
    add("--tls-key", "its private key in PEM", metavar="FILE")
    add(
        "--cors-origin",
        "an origin whose pages may call this cloud (may be given again)",
        action="append",
        dest="cors_origins",
        metavar="ORIGIN",
    )
    add("--gateway-workers", "gateway processes (default: 1, from three cores on a quarter of them)", metavar="N")
    add("--database-url", "use this PostgreSQL in place of the embedded one", metavar="URL")
    add("--models-folder", "where weights are kept (default: in the data folder)", metavar="DIR")
    add("--fabric", "where things run: local (default), this machine; ray, a Ray cluster", choices=("local", "ray"))
    add("--node-address", "ray: this machine's address for other nodes (default 127.0.0.1: none join)", metavar="IP")
    add(
        "--node-label",
        "ray: a label of this machine, as cloudcrest.io/zone=a (may be given again)",
        action="append",
        dest="node_labels",
        metavar="KEY=VALUE",
    )
    add("--node-token-file", "ray: what nodes show each other (default: one is made)", metavar="FILE")
    add("--ray-port", "ray: at which other nodes join (default 6379; 0 takes a free one)", metavar="PORT")
    add("--ray-address", "ray: the head of a cluster that runs already, to join it", metavar="HOST:PORT")
    add("--public-url", "how clients reach this cloud, where a proxy stands before it", metavar="URL")
    add("--no-default-models", "make no deployments on the first start", action="store_false", dest="default_models")
    parser.set_defaults(default_models=None)
    return parser
