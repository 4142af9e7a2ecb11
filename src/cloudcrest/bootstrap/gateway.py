"""The gateway process. Imports neither a database nor a web framework, so that it starts fast and stays small."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from cloudcrest.bootstrap.settings_file import read_settings
from cloudcrest.gateway.server import serve
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.infra.logs import configure_logs


def process(settings_path: Path) -> Coroutine[Any, Any, None]:
    """The gateway of these settings, to be run on an event loop."""
    settings = read_settings(settings_path, GatewaySettings)
    configure_logs("gateway", json=settings.log_json, level=settings.log_level)
    return serve(settings)
