"""`deployments`: which models are served, where and by how many replicas."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.errors import Refused, WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, note, print_json, show_done, show_one, show_rows
from cloudcrest.kernel.errors import NotFound, Unavailable
from cloudcrest.kernel.units import parse_bytes

POLL_SECONDS = 0.5
Engine = Literal["llamacpp", "vllm", "upstream", "simulated", "piper", "moonshine"]

app = App(name="deployments", help="Deployments: models that are served.")

_DEPLOYMENT: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("model", "model"),
    ("engine", "engine"),
    ("region", "region"),
    ("weight", "weight"),
    ("replicas", lambda deployment: "{ready}/{min}".format(**deployment["replicas"])),
    ("context", "context_tokens"),
    ("slots", "slots"),
    ("state", "state"),
    ("reason", "reason"),
]
_REPLICA: list[Column] = [
    ("replica", "id"),
    ("node", "node_id"),
    ("state", "state"),
    ("restarts", "restarts"),
    ("reason", "reason"),
]

Wait = Annotated[bool, Parameter(negative=(), help="Wait until it is ready.")]
WaitSeconds = Annotated[float, Parameter(help="How long to wait at most.")]
Memory = Annotated[str | None, Parameter(help="Memory for each replica, as in 2GiB.")]
Threads = Annotated[int | None, Parameter(name="--cpu-threads", help="Threads for each replica; else its cores.")]
Context = Annotated[int | None, Parameter(name="--context-tokens", help="Context of each request, in tokens.")]
Weight = Annotated[
    int | None, Parameter(help="Its share of the requests for its name, beside other deployments of it; 0: none.")
]
Slots = Annotated[int | None, Parameter(help="Requests that a replica runs at once.")]
EngineOptions = Annotated[
    list[str] | None,
    Parameter(name="--engine-option", negative=(), help="name=value, or name=@FILE for a secret; may be repeated."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Placing:
    """Where replicas run, and what each gets there beside memory."""

    accelerators: Annotated[int | None, Parameter(help="Accelerators for each replica.")] = None
    accelerator_milli: Annotated[
        int | None, Parameter(help="Thousandths of its accelerator, where a part of one will do.")
    ] = None
    accelerator_type: Annotated[
        list[str] | None, Parameter(negative=(), help="A type that will do; may be repeated, the best first.")
    ] = None
    cpu_milli: Annotated[int | None, Parameter(help="Thousandths of processors kept for each replica.")] = None
    spread: Annotated[
        Literal["node", "rack", "zone"] | None, Parameter(help="Over what replicas are spread; else over zones.")
    ] = None
    node_label: Annotated[
        list[str] | None, Parameter(negative=(), help="name=value that its nodes must have; may be repeated.")
    ] = None
    tolerate: Annotated[
        list[str] | None, Parameter(negative=(), help="A taint that its nodes may have; may be repeated.")
    ] = None

    def changes(self) -> Json:
        """What was given of them, for the API."""
        labels = None if self.node_label is None else dict(_label(text) for text in self.node_label)
        named = {
            "accelerators": self.accelerators,
            "accelerator_milli": self.accelerator_milli,
            "accelerator_types": self.accelerator_type,
            "cpu_milli": self.cpu_milli,
            "spread": self.spread,
            "node_labels": labels,
            "tolerations": self.tolerate,
        }
        given = {name: value for name, value in named.items() if value is not None}
        return {"placement": given} if given else {}


ANYWHERE = Placing()


@app.command(name="list")
def list_deployments(
    *, limit: Annotated[int, Parameter(help="How many at most.")] = 200, options: Options = DEFAULTS
) -> None:
    """Lists deployments and how they are."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("deployments"), limit=limit)
        show_rows(found, _DEPLOYMENT, options.format, empty="none yet: `cloudcrest deployments create MODEL`")


@app.command
def show(deployment: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows one deployment and its replicas, by id or name."""
    with Client(management(options)) as cloud:
        show_deployment(cloud.get(at("deployments", _id(cloud, deployment))), options)


@app.command
def create(
    model: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="What callers write in `model`; else the model's id.")] = None,
    engine: Annotated[Engine | None, Parameter(help="What runs it; else what suits the model.")] = None,
    region: Annotated[str, Parameter(help="Where.")] = "local",
    replicas: Annotated[int, Parameter(help="How many replicas.")] = 1,
    replicas_max: Annotated[int | None, Parameter(help="How many at most; else as many as --replicas.")] = None,
    context_tokens: Context = None,
    slots: Slots = None,
    memory: Memory = None,
    cpu_threads: Threads = None,
    placing: Placing = ANYWHERE,
    engine_options: EngineOptions = None,
    weight: Weight = None,
    org: Annotated[str | None, Parameter(help="For this organization alone; else for all.")] = None,
    wait: Wait = False,
    wait_seconds: WaitSeconds = 600.0,
    options: Options = DEFAULTS,
) -> None:
    """Serves a model of the catalog."""
    body: Json = {"model": model, "region": region, "replicas": _replicas(replicas, replicas_max)}
    named = {"name": name, "engine": engine, "weight": weight}
    body.update({name: value for name, value in named.items() if value is not None})
    body.update(_changes(context_tokens, slots, memory, cpu_threads, engine_options) | placing.changes())
    with Client(management(options)) as cloud:
        if org is not None:
            body["organization_id"] = choose.organization_id(cloud, org)
        _finish(cloud, cloud.post(at("deployments"), body), wait, wait_seconds, options)


@app.command
def update(
    deployment: str,
    /,
    *,
    context_tokens: Context = None,
    slots: Slots = None,
    memory: Memory = None,
    cpu_threads: Threads = None,
    placing: Placing = ANYWHERE,
    engine_options: EngineOptions = None,
    weight: Weight = None,
    wait: Wait = False,
    wait_seconds: WaitSeconds = 600.0,
    options: Options = DEFAULTS,
) -> None:
    """Changes what is given. Replicas are replaced without a gap where there is room for both."""
    body = _changes(context_tokens, slots, memory, cpu_threads, engine_options) | placing.changes()
    if weight is not None:
        body["weight"] = weight
    if not body:
        raise WrongUsage("there is nothing to change", hint="see `cloudcrest deployments update --help`")
    with Client(management(options)) as cloud:
        _finish(cloud, cloud.patch(at("deployments", _id(cloud, deployment)), body), wait, wait_seconds, options)


@app.command
def scale(
    deployment: str,
    replicas: int,
    /,
    *,
    replicas_max: Annotated[int | None, Parameter(help="How many at most; else as many as REPLICAS.")] = None,
    wait: Wait = False,
    wait_seconds: WaitSeconds = 600.0,
    options: Options = DEFAULTS,
) -> None:
    """Sets how many replicas run; 0 stops it and keeps its settings."""
    body: Json = {"replicas": _replicas(replicas, replicas_max)}
    with Client(management(options)) as cloud:
        _finish(cloud, cloud.patch(at("deployments", _id(cloud, deployment)), body), wait, wait_seconds, options)


@app.command
def delete(
    deployment: str, /, *, wait: Wait = False, wait_seconds: WaitSeconds = 60.0, options: Options = DEFAULTS
) -> None:
    """Stops serving it: running answers end first, then its replicas."""
    with Client(management(options)) as cloud:
        chosen = _id(cloud, deployment)
        cloud.delete(at("deployments", chosen))
        if wait:
            _wait_until_gone(cloud, chosen, wait_seconds)
        show_done({"deleted": chosen}, f"deleted {deployment}", options.format)


def wait_until_settled(
    cloud: Client,
    deployment_id: str,
    seconds: float,
    *,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Json:
    """The deployment once it is ready as it is wanted now, or stopped.

    Raises `Unavailable` when it fails, or its latest change does, or that takes too long.
    """
    deadline = now() + seconds
    said = ""
    while True:
        deployment = cloud.get(at("deployments", deployment_id))
        name, state, reason = deployment["name"], deployment["state"], deployment.get("reason")
        current = [item["state"] for item in deployment["replica_states"] if _is_current(deployment, item)]
        if state == "stopped" or (state == "ready" and current.count("ready") >= deployment["replicas"]["min"]):
            return deployment
        line = f"{name}: {state}" + (f", {reason}" if reason else "")
        if line != said:
            note(line)
            said = line
        has_failed = state == "failed" or any(each in ("backoff", "failed") for each in current)
        if has_failed or now() > deadline:
            why = "cannot run" if has_failed else f"is not ready after {seconds:.0f} s"
            raise Unavailable(f"{name} {why}: {reason or state}", hint="see `cloudcrest logs`, then update it")
        pause(POLL_SECONDS)


def _is_current(deployment: Json, replica: Json) -> bool:
    """Whether a replica has the deployment's latest change: those before it serve until it does."""
    return bool(replica["generation"] == deployment["generation"])


def show_deployment(deployment: Json, options: Options) -> None:
    """A deployment whole, with its replicas."""
    if options.format == "json":
        print_json(deployment)
        return
    more: list[Column] = [
        ("resources", "resources"),
        ("placement", "placement"),
        ("limits", "limits"),
        ("engine options", "engine_options"),
        ("for organization", "organization_id"),
        ("created", moment("created_at")),
    ]
    show_one(deployment, [*_DEPLOYMENT, *more], options.format)
    replicas = deployment["replica_states"]
    if options.format == "table" and replicas:
        print()
        show_rows(replicas, _REPLICA, "table", empty="")


def _finish(cloud: Client, deployment: Json, wait: bool, seconds: float, options: Options) -> None:
    show_deployment(wait_until_settled(cloud, deployment["id"], seconds) if wait else deployment, options)


def _wait_until_gone(cloud: Client, deployment_id: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            cloud.get(at("deployments", deployment_id))
        except Refused as error:
            if error.status_code == 404:
                return
            raise
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{deployment_id} is still there after {seconds:.0f} s", hint="see `cloudcrest logs region`"
            )
        time.sleep(POLL_SECONDS)


def _id(cloud: Client, deployment: str) -> str:
    if deployment.startswith("dep_"):
        return deployment
    named = [item for item in cloud.items(at("deployments")) if item["name"] == deployment]
    if len(named) == 1:
        return str(named[0]["id"])
    if named:
        raise WrongUsage(
            f"'{deployment}' is deployed more than once", hint=", ".join(str(item["id"]) for item in named)
        )
    raise NotFound(f"there is no deployment '{deployment}'", hint="see `cloudcrest deployments list`")


def _changes(
    context_tokens: int | None,
    slots: int | None,
    memory: str | None,
    cpu_threads: int | None,
    engine_options: list[str] | None,
) -> Json:
    named = {"context_tokens": context_tokens, "slots": slots}
    body: Json = {name: value for name, value in named.items() if value is not None}
    if memory is not None or cpu_threads is not None:
        memory_bytes = None if memory is None else parse_bytes(memory, field="--memory")
        body["resources"] = {"memory_bytes": memory_bytes, "cpu_threads": cpu_threads}
    if engine_options is not None:
        body["engine_options"] = dict(engine_option(text) for text in engine_options)
    return body


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise WrongUsage(f"'{text}' is no label", hint="write --node-label name=value")
    return name, value


def _replicas(least: int, most: int | None) -> Json:
    return {"min": least, "max": most if most is not None else max(least, 1)}


def engine_option(text: str) -> tuple[str, str | int | float | bool]:
    """`name=value`, with numbers and true/false as such; `name=@file` is the file's text, kept from process lists."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise WrongUsage(f"'{text}' is no engine option", hint="write --engine-option name=value")
    if value.startswith("@"):
        try:
            return name, Path(value[1:]).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUsage(
                f"{value[1:]} cannot be read: {error}", hint=f"check --engine-option {name}=@FILE"
            ) from error
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
