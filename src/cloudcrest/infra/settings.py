"""Settings from the environment: one frozen struct of defaults per slice, one variable per field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec

from cloudcrest.kernel.errors import SetupError

Settings = TypeVar("Settings", bound=msgspec.Struct)


def load_settings(
    struct: type[Settings],
    env: Mapping[str, str],
    prefix: str = "CLOUDCREST_",
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """`struct` with the fields that `env` (`<prefix><FIELD>`) or `overrides` (by field name; they win) set.

    Lists are written with commas, structs and mappings as JSON; an empty variable counts as unset. Raises `SetupError`
    naming the variable that is wrong; its value is not repeated, it may be a secret.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        variable = f"{prefix}{field.name.upper()}"
        if overrides is not None and field.name in overrides:
            values[field.name] = _convert(overrides[field.name], field.type, field.name)
        elif env.get(variable):
            values[field.name] = _parse(env[variable], field.type, variable)
        elif field.required:
            raise SetupError(f"{variable} is not set", hint=f"set {variable}")
    try:
        return struct(**values)
    except ValueError as error:
        raise SetupError(f"the settings do not fit together: {error}") from error


def _parse(text: str, wanted: Any, variable: str) -> Any:
    if get_origin(wanted) in (list, tuple, set, frozenset) and not text.lstrip().startswith("["):
        return _convert([part.strip() for part in text.split(",") if part.strip()], wanted, variable)
    if text.lstrip().startswith(("{", "[")):
        try:
            return msgspec.json.decode(text, type=wanted, strict=False, dec_hook=decode_path)
        except ValueError as error:
            raise SetupError(f"{variable} is not valid: {error}", hint=f"correct {variable}") from error
    return _convert(text, wanted, variable)


def _convert(value: Any, wanted: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, wanted, strict=False, dec_hook=decode_path)
    except msgspec.ValidationError as error:
        raise SetupError(f"{name} is not valid: {error}", hint=f"correct {name}") from error


def encode_path(value: object) -> str:
    """msgspec's `enc_hook` for structs with paths in them."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no settings of type {type(value)}")


def decode_path(wanted: type[Any], value: Any) -> Any:
    """msgspec's `dec_hook` for structs with paths in them."""
    if wanted is Path:
        return Path(value)
    raise NotImplementedError(f"no settings of type {wanted}")
