"""`login`, `logout`, `register`: who calls, kept on this machine."""

import getpass
import os
import sys
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from cloudcrest.cli import credentials
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import Connection, management
from cloudcrest.cli.errors import Refused, WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import note, print_json, show_done

CSRF_COOKIE = "cloudcrest_csrf"


def login(
    *,
    email: Annotated[str | None, Parameter(help="Sign in with an account; asks for the password.")] = None,
    password_stdin: Annotated[bool, Parameter(negative=(), help="Read the password from standard input.")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Keeps a login for later commands.

    An account (--email) or an API key (--key), checked before it is kept.

    `--profile` names it, for clouds and accounts beside each other; without, it is the default one.
    """
    place = _place(options)
    if options.key is not None and email is None:
        _check_key(place, options.key)
        _keep(options, credentials.Profile(url=place.base_url, key=options.key))
        return
    address = email or _ask("E-mail: ")
    with Client(place) as cloud:
        try:
            answer = cloud.post(at("auth", "login"), {"email": address, "password": _password(password_stdin)})
        except Refused as error:
            if error.code == "invalid_login":
                error.hint = f"if you have forgotten it, choose a new one at {place.base_url}/password-reset"
            raise
        _keep_session(options, cloud, answer, address)


def register(
    *,
    email: Annotated[str | None, Parameter(help="The account's e-mail address.")] = None,
    name: Annotated[str | None, Parameter(help="How others see you.")] = None,
    organization: Annotated[str | None, Parameter(help="Name of the organization that comes with it.")] = None,
    invitation: Annotated[str | None, Parameter(help="The link of an invitation, to join who invites.")] = None,
    password_stdin: Annotated[bool, Parameter(negative=(), help="Read the password from standard input.")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Makes an account and logs in.

    The account comes with an organization of its own, or joins the one that invites it (--invitation). Operators may
    have closed registration.
    """
    if invitation is not None and organization is not None:
        raise WrongUsage("an invitation brings its own organization", hint="leave out --organization")
    token, origin = invitation_parts(invitation or "")
    place = _place(options, origin)
    address = email or _ask("E-mail: ")
    body: Json = {"email": address, "name": name or address.partition("@")[0], "password": _password(password_stdin)}
    with Client(place) as cloud:
        if token:
            cloud.post(at("invitations", "accept"), {"token": token, "account": body})
            answer = cloud.post(at("auth", "login"), {"email": address, "password": body["password"]})
        else:
            if organization is not None:
                body["organization_name"] = organization
            answer = cloud.post(at("auth", "register"), body)
        _keep_session(options, cloud, answer, address)


def logout(*, options: Options = DEFAULTS) -> None:
    """Ends a session and forgets its profile."""
    name = options.profile or credentials.DEFAULT_PROFILE
    profile = credentials.load().profiles.get(name)
    if profile is None:
        show_done({"forgotten": None}, f"there is no profile '{name}'", options.format)
        return
    if profile.cookies:
        connection = Connection(profile.url, f"profile {name}", None, profile.cookies, profile.csrf)
        with Client(connection) as cloud:
            try:
                cloud.post(at("auth", "logout"))
            except Refused as error:
                note(f"the session had ended: {error.message}")
    credentials.forget(name)
    show_done({"forgotten": name}, f"forgot profile {name}", options.format)


def invitation_parts(link: str) -> tuple[str, str | None]:
    """The token of an invitation's link, and the cloud it leads to; a bare token leads nowhere."""
    token = link.rpartition("#token=")[2].strip()
    parts = urlsplit(link)
    return token, f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else None


def _place(options: Options, origin: str | None = None) -> Connection:
    """Where to log in: no credentials of another login go along. `origin` counts where no address is given."""
    if options.profile is not None and options.profile not in credentials.load().profiles:
        options = replace(options, profile=None)  # it is made by this login
    if origin is not None and options.url is None and not os.environ.get("CLOUDCREST_URL"):
        options = replace(options, url=origin)
    found = management(options)
    return Connection(found.base_url, found.source)


def _check_key(place: Connection, key: str) -> None:
    with Client(Connection(place.base_url, place.source, key)) as cloud:
        cloud.get("/v1/models")


def _keep_session(options: Options, cloud: Client, answer: Json, email: str) -> None:
    cookies = cloud.cookies()
    csrf = answer.get("csrf_token") or cookies.get(CSRF_COOKIE)
    if not cookies:
        raise Refused("the cloud opened no session", status_code=200, hint="is this address a Cloudcrest?")
    url = cloud.connection.base_url
    _keep(options, credentials.Profile(url=url, cookies=cookies, csrf=csrf, email=email))


def _keep(options: Options, profile: credentials.Profile) -> None:
    name = options.profile or credentials.DEFAULT_PROFILE
    path = credentials.save(name, profile)
    if options.format == "json":
        print_json({"profile": name, "url": profile.url, "email": profile.email, "kept_in": str(path)})
    else:
        note(f"logged in to {profile.url} as {profile.email or 'an API key'}; kept as profile {name} in {path}")


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise WrongUsage("there is no one to ask", hint="give --email, and the password by --password-stdin")
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return input().strip()


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise WrongUsage("there is no one to ask for the password", hint="pipe it in with --password-stdin")
    return getpass.getpass("Password: ")
