"""Which cloud a command talks to and as whom: flags, then environment, then profile, then the data folder."""

import os
from collections.abc import Mapping

import msgspec

from cloudcrest.cli import credentials, folders, machine
from cloudcrest.cli.errors import Unreachable, WrongUsage
from cloudcrest.cli.options import Options


class Connection(msgspec.Struct, frozen=True):
    """Where the cloud is, and what to show it. `source` says where this was found, for messages."""

    base_url: str
    source: str
    key: str | None = None
    cookies: dict[str, str] = {}
    csrf: str | None = None
    certificate: str | None = None
    """The one certificate chain that this cloud shows, where it runs on this machine with TLS."""


def management(options: Options, environment: Mapping[str, str] = os.environ) -> Connection:
    """For the management API: on this machine, the operator's key; a person's session before a key kept beside it."""
    found = _find(options, environment, local_key="operator_key")
    return found if not found.cookies else msgspec.structs.replace(found, key=None)


def inference(options: Options, environment: Mapping[str, str] = os.environ) -> Connection:
    """For the inference API: on this machine, the first key. Raises `WrongUsage` where no key is known."""
    return _with_key(options, environment, "cloudcrest keys create NAME --keep")


def of_jobs(options: Options, environment: Mapping[str, str] = os.environ) -> Connection:
    """For what jobs write and show, and volumes, with a key of their project that may manage; else as `inference`."""
    return _with_key(options, environment, "cloudcrest keys create NAME --scope inference --scope management --keep")


def _with_key(options: Options, environment: Mapping[str, str], made_with: str) -> Connection:
    found = _find(options, environment, local_key="api_key")
    if found.key is None:
        hint = f"make one with `{made_with}`, or give one with --key"
        raise WrongUsage(f"no API key for {found.base_url} is known", hint=hint)
    return msgspec.structs.replace(found, cookies={}, csrf=None)


def _find(options: Options, environment: Mapping[str, str], *, local_key: str) -> Connection:
    url = options.url or environment.get("CLOUDCREST_URL")
    key = options.key or environment.get("CLOUDCREST_API_KEY")
    if url is not None:
        source = "--url" if options.url else "CLOUDCREST_URL"
        found = _from_profile(options, environment) if options.profile else None
        if key is None and found is not None:
            return msgspec.structs.replace(found, base_url=_checked(url), source=source)
        return Connection(_checked(url), source, key)
    found = _from_profile(options, environment) or _from_data_folder(options, environment, local_key)
    if found is None:
        folder = folders.data_folder(options.data, environment)
        raise Unreachable(
            f"no cloud is known: none was started in {folder}, and there is no login",
            hint="start one with `cloudcrest up`, or log in with `cloudcrest login --url URL`",
        )
    return found if key is None else msgspec.structs.replace(found, key=key, cookies={}, csrf=None)


def _from_profile(options: Options, environment: Mapping[str, str]) -> Connection | None:
    """The named profile. The default one counts only where no data folder is asked for."""
    if options.profile is None and (options.data is not None or environment.get("CLOUDCREST_DATA")):
        return None
    profiles = credentials.load().profiles
    name = options.profile or credentials.DEFAULT_PROFILE
    profile = profiles.get(name)
    if profile is None:
        if options.profile is None:
            return None
        known = ", ".join(sorted(profiles)) or "none yet"
        raise WrongUsage(f"there is no profile '{name}'", hint=f"known: {known}; make one with `cloudcrest login`")
    return Connection(profile.url, f"profile {name}", profile.key, profile.cookies, profile.csrf)


def _from_data_folder(options: Options, environment: Mapping[str, str], local_key: str) -> Connection | None:
    """Where what runs there says it is; else where connection.json, which a cloud writes when ready, says it was."""
    data = folders.data_folder(options.data, environment)
    path, here = data / "connection.json", machine.running(data) or {}
    stored = folders.read_json(path)
    if stored is None and here.get("base_url"):
        # A first start is not ready yet. Its keys are made first of all.
        path = data / "secrets.json"
        made = folders.read_json(path) or {}
        stored = {"api_key": made.get("first_api_key"), "operator_key": made.get("operator_api_key")}
    if stored is None:
        return None
    said = here if here.get("base_url") else stored
    key, certificate = stored.get(local_key) or stored.get("api_key"), said.get("certificate")
    return Connection(
        _checked(str(said.get("base_url", ""))),
        str(path),
        key if isinstance(key, str) else None,
        certificate=str(certificate) if certificate else None,
    )


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise WrongUsage(f"'{url}' is no address of a cloud", hint="write for example --url http://127.0.0.1:8080")
    return url.rstrip("/")
