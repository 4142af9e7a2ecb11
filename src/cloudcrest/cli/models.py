"""`models`: the catalog, and fetching weights ahead of need."""

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, note, print_json, show_one, show_rows
from cloudcrest.kernel.errors import SetupError
from cloudcrest.kernel.units import format_bytes

POLL_SECONDS = 0.5
ENDS = frozenset({"ready", "failed"})

app = App(name="models", help="The catalog of models.")

_MODEL: list[Column] = [
    ("id", "id"),
    ("task", "task"),
    ("family", "family"),
    ("parameters", lambda model: _count(model.get("parameters"))),
    ("context", "context_tokens"),
    ("licence", "licence"),
    ("languages", "languages"),
    ("tools", "tool_format"),
]


@app.command(name="list")
def list_models(
    *,
    task: Annotated[str | None, Parameter(help="Only those for: chat, embedding, …")] = None,
    family: Annotated[str | None, Parameter(help="Only those of this family, as in Qwen3.")] = None,
    search: Annotated[str | None, Parameter(help="Only those with this in id, name or family.")] = None,
    limit: Annotated[int, Parameter(help="How many at most.")] = 200,
    options: Options = DEFAULTS,
) -> None:
    """Lists the models that this cloud knows. What is deployed: `cloudcrest deployments list`."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("models"), limit=limit, task=task, family=family, q=search)
        show_rows(found, _MODEL, options.format, empty="no such models")


@app.command
def show(model: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows one model whole: licence, lineage, artifacts with their hashes and sources."""
    with Client(management(options)) as cloud:
        found = cloud.get(at("models", model))
    columns: list[Column] = [(name.replace("_", " "), name) for name in found if name != "artifacts"]
    show_one(found, columns, options.format)
    if options.format == "table":
        for artifact in found.get("artifacts", []):
            show_artifact(artifact)


@app.command
def pull(
    model: str,
    /,
    *,
    region: Annotated[str, Parameter(help="Where to.")] = "local",
    wait: Annotated[bool, Parameter(help="Wait until it is there.")] = True,
    options: Options = DEFAULTS,
) -> None:
    """Fetches a model's weights into a region: resumes what broke off, verifies every file by its hash."""
    with Client(management(options)) as cloud:
        started = cloud.post(at("model-pulls"), {"model": model, "region": region})
        if not wait:
            show_pull(started, options)
            return
        last = started
        with progress_bar(model) as advance:
            for state in pull_states(cloud, str(started["id"])):
                last = state
                advance(state["progress"])
    show_pull(last, options)
    if last["progress"]["phase"] == "failed":
        reason = last["progress"].get("reason")
        raise SetupError(f"{model} could not be fetched: {reason}", hint="run this again: it resumes")


def pull_states(cloud: Client, pull_id: str, pause: Callable[[float], None] = time.sleep) -> Iterator[Json]:
    """The states of a pull until it ends."""
    while True:
        state = cloud.get(at("model-pulls", pull_id))
        yield state
        if state["progress"]["phase"] in ENDS:
            return
        pause(POLL_SECONDS)


def show_pull(state: Json, options: Options) -> None:
    """How a pull ended, or stands."""
    if options.format == "json":
        print_json(state)
        return
    progress = state["progress"]
    size = f", {format_bytes(progress['done_bytes'])}" if progress.get("done_bytes") else ""
    print(f"{state['model']} in {state['region']}: {progress['phase']}{size}")


def show_artifact(artifact: Json) -> None:
    """An artifact's files and where they come from."""
    note_of = f", {artifact['quantization']}" if artifact.get("quantization") else ""
    print(f"\nartifact {artifact.get('format')}{note_of}")
    for file in artifact.get("files", []):
        size = format_bytes(file["size_bytes"]) if file.get("size_bytes") else "size unknown"
        print(f"  {file.get('path')}  {size}  sha256:{file.get('sha256')}")
    for source in artifact.get("sources", []):
        print(f"  from {source}")


class progress_bar:  # noqa: N801 - used as a function in a with statement
    """A bar on stderr for a person, nothing for a pipe. Gives a function to call with each state."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._title = title
        self._task = self._progress.add_task(title, total=None)
        self._phase = ""

    def __enter__(self) -> Callable[[Json], None]:
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, state: Json) -> None:
        phase = str(state.get("phase"))
        total: Any = state.get("total_bytes")
        done: Any = total if phase == "ready" else state.get("done_bytes")
        self._progress.update(self._task, description=f"{self._title} {phase}", completed=done or 0, total=total)
        if phase != self._phase and not self._progress.console.is_terminal:
            note(f"{self._title}: {phase}")
        self._phase = phase


def _count(parameters: Any) -> str:
    if not isinstance(parameters, int | float):
        return "" if parameters is None else str(parameters)
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return str(parameters)
