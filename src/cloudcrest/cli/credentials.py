"""Logins kept on this machine, by profile, in a file that only its owner can read."""

import json
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.cli.folders import config_folder, read_json
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.errors import SetupError

DEFAULT_PROFILE = "default"


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One login: an API key, or the session of a person (`session`: the cookie, `csrf`: what goes with it)."""

    url: str
    key: str | None = None
    cookies: dict[str, str] = {}
    csrf: str | None = None
    email: str | None = None


class Credentials(msgspec.Struct, frozen=True):
    profiles: dict[str, Profile] = {}


def path() -> Path:
    """The file of this user."""
    return config_folder() / "credentials.json"


def load() -> Credentials:
    """What is kept; nothing where there is no file yet. Raises `SetupError` where the file makes no sense."""
    stored: dict[str, Any] | None = read_json(path())
    try:
        return msgspec.convert(stored or {}, Credentials)
    except msgspec.ValidationError as error:
        raise SetupError(f"{path()} makes no sense: {error}", hint="remove it and log in again") from None


def save(name: str, profile: Profile) -> Path:
    """Keeps a login under a name; returns the file."""
    profiles = {**load().profiles, name: profile}
    _write(Credentials(profiles))
    return path()


def forget(name: str) -> bool:
    """Removes a login; False where there was none of that name."""
    profiles = dict(load().profiles)
    if profiles.pop(name, None) is None:
        return False
    _write(Credentials(profiles))
    return True


def _write(credentials: Credentials) -> None:
    path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path(), json.dumps(msgspec.to_builtins(credentials), indent=2).encode(), mode=0o600)
