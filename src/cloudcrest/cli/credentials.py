"""Logins kept on this machine, by profile, in a file that only its owner can read."""

import json
from pathlib import Path
from typing import Any

import msgspec

from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.folders import config_folder, read_json
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.errors import SetupError

DEFAULT_PROFILE = "default"


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One login: an API key, or the session of a person (`cookies`, and the `csrf` token that writes must show).

    Beside a session, `key` is the one that `cloudcrest chat` calls with.
    """

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


def require(name: str | None) -> Profile:
    """The login of a profile (None: the default one). Raises `WrongUsage` where there is none."""
    profile = load().profiles.get(name or DEFAULT_PROFILE)
    if profile is None:
        raise WrongUsage(f"there is no profile '{name or DEFAULT_PROFILE}'", hint="make one with `cloudcrest login`")
    return profile


def keep_key(name: str | None, key: str) -> None:
    """Puts a key for inference beside a login."""
    save(name or DEFAULT_PROFILE, msgspec.structs.replace(require(name), key=key))


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
