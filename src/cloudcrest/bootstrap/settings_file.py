"""The settings files that `up` writes and its processes read: apart from their contents, so that each loads its own."""

from pathlib import Path
from typing import TypeVar

import msgspec

from cloudcrest.infra.files import write_atomic
from cloudcrest.infra.settings import decode_path, encode_path
from cloudcrest.kernel.errors import SetupError

Settings = TypeVar("Settings", bound=msgspec.Struct)


def write_settings(path: Path, settings: msgspec.Struct) -> None:
    """Writes a process's settings for `read_settings`, for its owner alone."""
    write_atomic(path, msgspec.json.encode(settings, enc_hook=encode_path))


def read_settings(path: Path, struct: type[Settings]) -> Settings:
    """The settings in a JSON file. Raises `SetupError` naming the file and the field."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=struct, dec_hook=decode_path)
    except OSError as error:
        raise SetupError(f"the settings {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"the settings {path} are wrong: {error}") from error
