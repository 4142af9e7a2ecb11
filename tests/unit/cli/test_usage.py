"""What `usage` shows: tokens, what is not counted in them, prices, charges, and totals with hit rates."""

import pytest

from tests.unit.cli.conftest import Cli, FakeCloud


def test_usage_shows_prices_and_the_charge_as_they_are(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"quantity": 1, "amount": "0.00000002", "price": "0.02"}
    priced = {
        "id": "req_2",
        "started_at": "2026-11-23T19:00:00.123456Z",
        "model": "small",
        "outcome": "completed",
        "usage": {"input_tokens": 37, "cached_input_tokens": 0, "output_tokens": 12},
        "charge": {"amount": "0.00000244", "currency": "USD", "lines": [{"kind": "input", **line}]},
    }
    cloud.answer(
        "GET", "/api/v1/usage", {"data": [priced, {**priced, "id": "req_1", "charge": None}], "next_cursor": None}
    )
    assert cli("usage", "--format", "csv", "--model", "small") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1] == "2026-11-23 19:00:00,req_2,small,completed,37,0,12,,0.02,,,0.00000244 USD"
    assert rows[2].endswith("not priced yet")
    assert cloud.requests[-1].url.params["model"] == "small"


def test_usage_shows_what_is_not_counted_in_tokens(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"id": "req_1", "started_at": "2026-11-23T19:00:00Z", "model": "m", "outcome": "completed", "charge": None}
    spoken = {"input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0, "characters": 42}
    marked = {**spoken, "input_tokens": 90, "cache_write_tokens": 30, "characters": 0, "audio_milliseconds": 1500}
    rows = [{**row, "usage": spoken, "tier": "standard"}, {**row, "usage": marked, "tier": "batch"}]
    cloud.answer("GET", "/api/v1/usage", {"data": rows, "next_cursor": None})
    assert cli("usage", "--format", "csv") == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(",", 7)[7] for line in shown] == [
        "42 characters,,,,not priced yet",
        '"30 written, 1.5 s, batch",,,,not priced yet',
    ]


def test_a_summary_shows_hit_rates_by_what_was_asked_for(
    cli: Cli, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    group = {
        "model": "m", "day": "2026-11-23", "requests": 3, "input_tokens": 200, "cached_input_tokens": 150,
        "cache_hit_rate": 0.75, "cache_write_tokens": 30, "output_tokens": 9, "characters": 0,
        "audio_milliseconds": 2500, "images": 0, "accelerator_milliseconds": 4000, "cpu_milliseconds": 0,
        "charges": [{"amount": "0.5", "currency": "USD"}],
        "unpriced_requests": 0,
    }  # fmt: skip
    cloud.answer("GET", "/api/v1/usage/summary", {"data": [group]})
    assert cli("usage", "--by", "day_model", "--format", "csv") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.startswith("day (UTC),model,requests,input,cached,hit rate,written,")
    assert line.startswith("2026-11-23,m,3,200,150,75%,30,9,0,2.5 s,0,4 s,,0.5 USD,0")
    assert cloud.requests[-1].url.params["group_by"] == "day_model"
