"""`keys`: API keys, shown once, revoked everywhere within a second."""

from datetime import datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cloudcrest.cli import choose, credentials
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, note, show_done, show_one, show_rows

Scope = Literal["inference", "management"]

app = App(name="keys", help="API keys: for applications, and for this command line.")

_KEY: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("begins", "prefix"),
    ("project", "project_id"),
    ("scopes", "scopes"),
    ("models", lambda key: key.get("models") if key.get("models") is not None else "all"),
    ("limits", "limits"),
    ("labels", "labels"),
    ("expires", moment("expires_at")),
    ("revoked", moment("revoked_at")),
]

Requests = Annotated[int | None, Parameter(name="--requests-per-minute", help="Limit of its own.")]
Tokens = Annotated[int | None, Parameter(name="--tokens-per-minute", help="Limit of its own.")]
Concurrent = Annotated[int | None, Parameter(name="--concurrent-requests", help="Limit of its own.")]
Timeout = Annotated[
    int | None, Parameter(name="--request-timeout-seconds", help="How long each of its requests may take.")
]
Growth = Annotated[
    int | None, Parameter(name="--growth-percent-per-minute", help="How much faster its requests may come each minute.")
]
Floor = Annotated[
    int | None,
    Parameter(name="--growth-floor-requests-per-minute", help="Up to this rate growth is not limited; else 60."),
]
Wait = Annotated[
    int | None, Parameter(name="--max-wait-seconds", help="How long its requests over a limit wait for room.")
]
Labels = Annotated[list[str] | None, Parameter(name="--label", negative=(), help="name=value; may be repeated.")]
Models = Annotated[
    list[str] | None, Parameter(name="--model", negative=(), help="A model it may use, else all; may be repeated.")
]
Expires = Annotated[datetime | None, Parameter(help="When it stops working, as in 2027-01-31T12:00:00 (UTC).")]


@app.command(name="list")
def list_keys(
    *,
    project: Annotated[str | None, Parameter(help="Id or name of a project; else all you see.")] = None,
    limit: Annotated[int, Parameter(help="How many at most.")] = 100,
    options: Options = DEFAULTS,
) -> None:
    """Lists keys, without their secrets."""
    with Client(management(options)) as cloud:
        place = None if project is None else choose.project_id(cloud, project)
        found = cloud.items(at("keys"), limit=limit, project_id=place)
        show_rows(found, _KEY, options.format, empty="no keys yet: `cloudcrest keys create NAME`")


@app.command
def create(
    name: str,
    /,
    *,
    project: Annotated[str | None, Parameter(help="Id or name; else the only one there is.")] = None,
    scope: Annotated[list[Scope] | None, Parameter(negative=(), help="What it is for; may be repeated.")] = None,
    organization_wide: Annotated[
        bool, Parameter(negative=(), help="Its management reaches the whole organization, not its project alone.")
    ] = False,
    models: Models = None,
    expires_at: Expires = None,
    labels: Labels = None,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    concurrent_requests: Concurrent = None,
    request_timeout_seconds: Timeout = None,
    growth_percent_per_minute: Growth = None,
    growth_floor_requests_per_minute: Floor = None,
    max_wait_seconds: Wait = None,
    keep: Annotated[
        bool, Parameter(negative=(), help="Keep it in the login's profile, for `cloudcrest chat`.")
    ] = False,
    options: Options = DEFAULTS,
) -> None:
    """Makes a key and prints it, this once.

    It stands alone on stdout, so that a script can take it.
    """
    limits = _limits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
        request_timeout_seconds=request_timeout_seconds,
        growth_percent_per_minute=growth_percent_per_minute,
        growth_floor_requests_per_minute=growth_floor_requests_per_minute,
        max_wait_seconds=max_wait_seconds,
    )
    with Client(management(options)) as cloud:
        body: Json = {"name": name, "project_id": choose.project_id(cloud, project), "scopes": scope or ["inference"]}
        if organization_wide:
            body["organization_wide"] = True
        body.update(_changes(models, expires_at, labels, limits))
        if keep:
            credentials.require(options.profile)
        unserved = choose.unserved(cloud, models or [])
        answer = cloud.post(at("keys"), body)
    for said in unserved:
        note(f"{said}. `cloudcrest keys update {answer['id']} --model …` changes what it may use")
    if keep:
        credentials.keep_key(options.profile, answer["key"])
    if options.format != "table":
        show_one(answer, [*_KEY, ("key", "key")], options.format)
        return
    note("this key is shown this once; keep it where secrets are kept")
    print(answer["key"])


@app.command
def update(
    key_id: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="A new name.")] = None,
    models: Models = None,
    expires_at: Expires = None,
    labels: Labels = None,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    concurrent_requests: Concurrent = None,
    request_timeout_seconds: Timeout = None,
    growth_percent_per_minute: Growth = None,
    growth_floor_requests_per_minute: Floor = None,
    max_wait_seconds: Wait = None,
    options: Options = DEFAULTS,
) -> None:
    """Changes a key: what is given, and nothing else.

    Scopes never change: make another key.
    """
    limits = _limits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
        request_timeout_seconds=request_timeout_seconds,
        growth_percent_per_minute=growth_percent_per_minute,
        growth_floor_requests_per_minute=growth_floor_requests_per_minute,
        max_wait_seconds=max_wait_seconds,
    )
    body = _changes(models, expires_at, labels, limits)
    if name is not None:
        body["name"] = name
    if not body:
        raise WrongUsage("there is nothing to change", hint="see `cloudcrest keys update --help`")
    with Client(management(options)) as cloud:
        if limits:
            body["limits"] = {**cloud.get(at("keys", key_id))["limits"], **limits}
        show_one(cloud.patch(at("keys", key_id), body), _KEY, options.format)
        for said in choose.unserved(cloud, models or []):
            note(said)


@app.command
def revoke(key_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Revokes a key: every gateway refuses it within a second."""
    with Client(management(options)) as cloud:
        cloud.delete(at("keys", key_id))
        show_done({"revoked": key_id}, f"revoked {key_id}", options.format)


def _limits(**named: int | None) -> Json:
    return {name: value for name, value in named.items() if value is not None}


def _changes(models: list[str] | None, expires_at: datetime | None, labels: list[str] | None, limits: Json) -> Json:
    body: Json = {}
    if models is not None:
        body["models"] = models
    if expires_at is not None:
        body["expires_at"] = expires_at.isoformat() + ("" if expires_at.tzinfo else "Z")
    if labels is not None:
        body["labels"] = dict(_label(text) for text in labels)
    if limits:
        body["limits"] = limits
    return body


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise WrongUsage(f"'{text}' is no label", hint="write --label name=value")
    return name, value
