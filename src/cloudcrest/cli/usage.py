"""`usage`: what was served and what each request cost, to the last unit."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, moment, show_rows, value_of


def _price(kind: str) -> Callable[[Row], Any]:
    """A column with a price of the charge, of a batch where it was in one."""

    def read(row: Row) -> Any:
        for line in value_of(row, "charge.lines") or ():
            if line["kind"] in (kind, f"batch_{kind}"):
                return line["price"]
        return None

    return read


def _other(row: Row) -> str | None:
    """What is not counted in input and output."""
    usage = row["usage"]
    said = [f"{usage[field]} {word}" for field, word in _OTHERS if usage.get(field)]
    if usage.get("audio_milliseconds"):
        said.append(f"{usage['audio_milliseconds'] / 1000:g} s")
    said += [f"{usage[field] / 1000:g} {word} s" for field, word in _COMPUTE if usage.get(field)]
    if row.get("tier") == "batch":
        said.append("batch")
    return ", ".join(said) or None


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds else ""


def _charge(row: Row) -> str:
    amount = value_of(row, "charge.amount")
    return "not priced yet" if amount is None else f"{amount} {value_of(row, 'charge.currency')}"


_OTHERS = (("cache_write_tokens", "written"), ("characters", "characters"), ("images", "images"))
_COMPUTE = (("accelerator_milliseconds", "accelerator"), ("cpu_milliseconds", "CPU"))
_REQUEST: list[Column] = [
    ("time (UTC)", moment("started_at")),
    ("request", "id"),
    ("model", "model"),
    ("outcome", "outcome"),
    ("input", "usage.input_tokens"),
    ("cached", "usage.cached_input_tokens"),
    ("output", "usage.output_tokens"),
    ("other", _other),
    ("input price/M", _price("input")),
    ("cached price/M", _price("cached_input")),
    ("output price/M", _price("output")),
    ("charge", _charge),
]
_SUMS: list[Column] = [
    ("requests", "requests"),
    ("input", "input_tokens"),
    ("cached", "cached_input_tokens"),
    ("hit rate", lambda row: "" if row["cache_hit_rate"] is None else f"{row['cache_hit_rate']:.0%}"),
    ("written", "cache_write_tokens"),
    ("output", "output_tokens"),
    ("characters", "characters"),
    ("sound", lambda row: _seconds(row["audio_milliseconds"])),
    ("images", "images"),
    ("accelerators", lambda row: _seconds(row["accelerator_milliseconds"])),
    ("CPU", lambda row: _seconds(row["cpu_milliseconds"])),
    ("charge", lambda row: [f"{charge['amount']} {charge['currency']}" for charge in row["charges"]]),
    ("not priced yet", "unpriced_requests"),
]
_GROUPS: dict[str, list[Column]] = {
    "model": [("model", "model")],
    "day": [("day (UTC)", "day")],
    "day_model": [("day (UTC)", "day"), ("model", "model")],
    "project": [("project", "project_id")],
    "key": [("key", "key_id")],
}


def usage(
    *,
    summary: Annotated[bool, Parameter(negative=(), help="Totals instead of each request, by model.")] = False,
    by: Annotated[
        Literal["model", "day", "day_model", "project", "key"] | None, Parameter(help="Totals by something else.")
    ] = None,
    org: Annotated[str | None, Parameter(help="Organization, by id or name.")] = None,
    project: Annotated[str | None, Parameter(help="Project, by id or name.")] = None,
    key_id: Annotated[str | None, Parameter(help="Only of this key.")] = None,
    model: Annotated[str | None, Parameter(help="Only of this model.")] = None,
    since: Annotated[datetime | None, Parameter(help="From then on, as in 2026-01-31 (UTC).")] = None,
    until: Annotated[datetime | None, Parameter(help="Before then.")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many requests at most, newest first.")] = 50,
    options: Options = DEFAULTS,
) -> None:
    """Shows each request and its charge.

    When, which model, how it ended, tokens in, cached and out, unit prices, and what that makes.

    The charge is the sum of each quantity times its price, unrounded: `--format json` shows every line of it.
    """
    with Client(management(options)) as cloud:
        query = {
            "organization_id": None if org is None else choose.organization_id(cloud, org),
            "project_id": None if project is None else choose.project_id(cloud, project, org),
            "key_id": key_id,
            "model": model,
            "since": _utc(since),
            "until": _utc(until),
        }
        if summary or by is not None:
            group = by or "model"
            found = cloud.get(at("usage", "summary"), group_by=group, **query)
            show_rows(found["data"], [*_GROUPS[group], *_SUMS], options.format, empty="nothing was used yet")
        else:
            rows = cloud.items(at("usage"), limit=limit, **query)
            show_rows(rows, _REQUEST, options.format, empty="nothing was used yet")


def _utc(moment_given: datetime | None) -> str | None:
    if moment_given is None:
        return None
    return moment_given.isoformat() + ("" if moment_given.tzinfo else "Z")
