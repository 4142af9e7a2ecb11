"""Where things lie on this machine: the data folder of a cloud, and this person's own settings."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudcrest.kernel.errors import SetupError


def data_folder(asked: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """`--data`, CLOUDCREST_DATA, or `cloudcrest` in the user's data folder."""
    if asked is not None:
        return asked.expanduser().absolute()
    if environment.get("CLOUDCREST_DATA"):
        return Path(environment["CLOUDCREST_DATA"]).expanduser().absolute()
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "cloudcrest"


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`cloudcrest` in the user's folder of settings."""
    base = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "cloudcrest"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file. Raises `SetupError` for anything else."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise SetupError(f"{path} is not yours to read", hint="run this as the user who started the cloud") from None
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {error}", hint="mend or remove that file") from None
    if not isinstance(value, dict):
        raise SetupError(f"{path} holds no JSON object", hint="mend or remove that file")
    return value
