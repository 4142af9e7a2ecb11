"""`ledger` and `rate-cards`: money, exactly."""

from datetime import datetime
from typing import Annotated

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, note, show_one, show_rows
from cloudcrest.kernel.errors import Conflict

OrganizationOption = Annotated[str | None, Parameter(name="--org", help="Id or name; else the only one there is.")]

app = App(name="ledger", help="The ledger: what was charged and credited, append-only.")
rate_cards = App(name="rate-cards", help="Rate cards: what a model costs, from a moment on.")

_ENTRY: list[Column] = [
    ("time (UTC)", moment("created_at")),
    ("id", "id"),
    ("kind", "kind"),
    ("amount", "amount"),
    ("currency", "currency"),
    ("request", "usage_event_id"),
    ("note", "note"),
]
_BALANCE: list[Column] = [
    ("organization", "organization_id"),
    ("amount", "amount"),
    ("currency", "currency"),
    ("suspended", "is_suspended"),
]
_REPORT: list[Column] = [
    ("in order", "ok"),
    ("events replayed", "events_replayed"),
    ("entries checked", "entries_checked"),
    ("events not priced yet", "events_waiting"),
    ("accounts checked", "accounts_checked"),
    ("charged", lambda report: [f"{sum_of['amount']} {sum_of['currency']}" for sum_of in report["charged"]]),
    ("differences", "differences_total"),
]
_DIFFERENCE: list[Column] = [
    ("kind", "kind"),
    ("subject", "subject"),
    ("organization", "organization_id"),
    ("field", "field"),
    ("expected", "expected"),
    ("found", "found"),
]
_CARD: list[Column] = [
    ("id", "id"),
    ("model", "model"),
    ("currency", "currency"),
    ("valid from (UTC)", moment("valid_from")),
    ("input/M", "input_price_per_million_tokens"),
    ("cached input/M", "cached_input_price_per_million_tokens"),
    ("output/M", "output_price_per_million_tokens"),
    ("cache write/M", "cache_write_price_per_million_tokens"),
    ("batch in/M", "batch_input_price_per_million_tokens"),
    ("batch cached/M", "batch_cached_input_price_per_million_tokens"),
    ("batch out/M", "batch_output_price_per_million_tokens"),
    ("characters/M", "price_per_million_characters"),
    ("sound/s", "price_per_audio_second"),
    ("image", "price_per_image"),
    ("accelerator/s", "price_per_accelerator_second"),
    ("CPU/s", "price_per_cpu_second"),
]


@app.command
def entries(
    *,
    org: OrganizationOption = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many at most, newest first.")] = 50,
    options: Options = DEFAULTS,
) -> None:
    """Lists entries: charges are negative, credits positive."""
    with Client(management(options)) as cloud:
        place = choose.organization_id(cloud, org)
        found = cloud.items(at("ledger", "entries"), limit=limit, organization_id=place)
        show_rows(found, _ENTRY, options.format, empty="no entries yet")


@app.command
def balance(*, org: OrganizationOption = None, options: Options = DEFAULTS) -> None:
    """Shows what an organization has left."""
    with Client(management(options)) as cloud:
        place = choose.organization_id(cloud, org)
        found = cloud.get(at("ledger", "balance"), organization_id=place)
        show_one(found, _BALANCE, options.format)


@app.command
def verify(*, org: OrganizationOption = None, options: Options = DEFAULTS) -> None:
    """Replays every usage event into a ledger of its own and compares. Exit code 1 where they differ."""
    with Client(management(options)) as cloud:
        place = None if org is None else choose.organization_id(cloud, org)
        body: Json = {} if place is None else {"organization_id": place}
        report = cloud.post(at("ledger", "verify"), body)
    show_one(report, _REPORT, options.format)
    if options.format == "table" and report["differences"]:
        show_rows(report["differences"], _DIFFERENCE, "table", empty="")
    if not report["ok"]:
        raise Conflict(
            "the ledger is not what usage says it should be", hint="the rest of the differences: --format json"
        )


@app.command
def credit(
    amount: str,
    /,
    *,
    reason: Annotated[str, Parameter(name=["--note", "-m"], help="Why; it stands in the ledger.")],
    currency: Annotated[str, Parameter(help="ISO 4217.")] = "USD",
    org: OrganizationOption = None,
    options: Options = DEFAULTS,
) -> None:
    """Credits an organization, for operators; a negative amount takes it back."""
    with Client(management(options)) as cloud:
        place = choose.organization_id(cloud, org)
        body: Json = {"organization_id": place, "amount": amount, "currency": currency, "note": reason}
        show_one(cloud.post(at("ledger", "credits"), body), _ENTRY, options.format)


@rate_cards.command(name="list")
def list_rate_cards(
    *,
    model: Annotated[str | None, Parameter(help="Only of this model.")] = None,
    history: Annotated[bool, Parameter(negative=(), help="Also what is past or to come.")] = False,
    limit: Annotated[int, Parameter(help="How many at most.")] = 100,
    options: Options = DEFAULTS,
) -> None:
    """Lists prices: per million tokens or characters, per second of sound and compute, per image."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("rate-cards"), limit=limit, model=model, history=history or None)
        show_rows(found, _CARD, options.format, empty="no rate cards yet: usage is recorded and waits")


@rate_cards.command(name="create")
def create_rate_card(
    model: str,
    /,
    *,
    input: Annotated[str, Parameter(help="Price of a million input tokens.")] = "0",
    output: Annotated[str, Parameter(help="Price of a million output tokens.")] = "0",
    cached_input: Annotated[
        str | None, Parameter(help="Price of a million cached input tokens; else as --input.")
    ] = None,
    cache_write: Annotated[
        str | None, Parameter(help="Price of a million input tokens written into a cache; else as --input.")
    ] = None,
    batch_input: Annotated[str | None, Parameter(help="Of a million input tokens in a batch; else half.")] = None,
    batch_cached_input: Annotated[str | None, Parameter(help="Of cached ones in a batch; else half.")] = None,
    batch_output: Annotated[str | None, Parameter(help="Of a million output tokens in a batch; else half.")] = None,
    characters: Annotated[str | None, Parameter(help="Price of a million characters that are spoken.")] = None,
    audio_second: Annotated[str | None, Parameter(help="Price of a second of sound that is listened to.")] = None,
    image: Annotated[str | None, Parameter(help="Price of an image that is made.")] = None,
    accelerator_second: Annotated[
        str | None, Parameter(help="Price of a second of an accelerator, of the model compute/<accelerator type>.")
    ] = None,
    cpu_second: Annotated[
        str | None, Parameter(help="Price of a second of a processor, of compute/cpu or compute/<accelerator type>.")
    ] = None,
    currency: Annotated[str, Parameter(help="ISO 4217.")] = "USD",
    valid_from: Annotated[datetime | None, Parameter(help="From then on (UTC); else from now on.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Sets what a model costs from a moment on, for operators. What was served before keeps its price."""
    body: Json = {
        "model": model,
        "currency": currency,
        "input_price_per_million_tokens": input,
        "cached_input_price_per_million_tokens": cached_input or input,
        "output_price_per_million_tokens": output,
    }
    others = {
        "cache_write_price_per_million_tokens": cache_write,
        "batch_input_price_per_million_tokens": batch_input,
        "batch_cached_input_price_per_million_tokens": batch_cached_input,
        "batch_output_price_per_million_tokens": batch_output,
        "price_per_million_characters": characters,
        "price_per_audio_second": audio_second,
        "price_per_image": image,
        "price_per_accelerator_second": accelerator_second,
        "price_per_cpu_second": cpu_second,
    }
    body |= {name: price for name, price in others.items() if price is not None}
    if valid_from is not None:
        body["valid_from"] = valid_from.isoformat() + ("" if valid_from.tzinfo else "Z")
    with Client(management(options)) as cloud:
        card = cloud.post(at("rate-cards"), body)
        show_one(card, _CARD, options.format)
    note("usage from then on is charged by this card")
