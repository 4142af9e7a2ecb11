"""What people do with the printed key: the `openai` client, curl and `cloudcrest chat`; and what it costs, exactly."""

import json
import subprocess
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import Cli
from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, QUESTION, Tenant
from tests.support.cloud import Cloud
from tests.support.waiting import until


@pytest.fixture
def client(cloud: Cloud, anyone: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cloud.base_url}/v1", api_key=anyone.key["key"], max_retries=0)


def settled(tenant: Tenant, requests: int) -> list[dict[str, Any]]:
    """The tenant's usage once so many requests have arrived and are priced."""

    def look() -> list[dict[str, Any]] | None:
        rows = tenant.usage()
        return rows if len(rows) >= requests and all(row["charge"] for row in rows) else None

    rows = until(look, f"{requests} requests are in the ledger")
    assert rows is not None
    assert len(rows) == requests
    return rows


def charge_of(row: dict[str, Any], usage: Any) -> Decimal:
    """What the answer's own `usage` times the row's unit prices makes."""
    prices = {line["kind"]: Decimal(line["price"]) for line in row["charge"]["lines"]}
    details = getattr(usage, "prompt_tokens_details", None)
    cached = (details.cached_tokens or 0) if details is not None else 0
    output = getattr(usage, "completion_tokens", 0)
    parts = {"input": usage.prompt_tokens - cached, "cached_input": cached, "output": output}
    return sum((prices.get(kind, Decimal(0)) * tokens for kind, tokens in parts.items()), Decimal(0)) / 1_000_000


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert {CHAT_MODEL, EMBEDDING_MODEL} <= {model.id for model in client.models.list()}


def test_a_chat_costs_its_usage_times_the_prices(client: openai.OpenAI, anyone: Tenant) -> None:
    answer = client.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": "Name a colour."}], max_tokens=12
    )
    assert answer.model == CHAT_MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    row = settled(anyone, 1)[0]
    assert row["usage"]["input_tokens"] == answer.usage.prompt_tokens
    assert row["usage"]["output_tokens"] == answer.usage.completion_tokens
    assert Decimal(row["charge"]["amount"]) == charge_of(row, answer.usage) > 0


def test_a_streamed_chat_costs_the_same_way(client: openai.OpenAI, anyone: Tenant) -> None:
    chunks = list(
        client.chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": "Count to five."}],
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    usage = chunks[-1].usage
    assert usage is not None
    row = settled(anyone, 1)[0]
    assert row["is_stream"] is True
    assert row["usage"]["output_tokens"] == usage.completion_tokens
    assert Decimal(row["charge"]["amount"]) == charge_of(row, usage)


def test_every_choice_is_counted(client: openai.OpenAI, anyone: Tenant) -> None:
    answer = client.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": "Name a bird."}], max_tokens=6, n=3, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    row = settled(anyone, 1)[0]
    assert row["usage"]["output_tokens"] == answer.usage.completion_tokens
    assert Decimal(row["charge"]["amount"]) == charge_of(row, answer.usage)


def test_a_completion(client: openai.OpenAI, anyone: Tenant) -> None:
    answer = client.completions.create(model=CHAT_MODEL, prompt="Once upon a time", max_tokens=8)
    assert answer.choices[0].text
    row = settled(anyone, 1)[0]
    assert Decimal(row["charge"]["amount"]) == charge_of(row, answer.usage)


def test_embeddings(client: openai.OpenAI, anyone: Tenant) -> None:
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=["a cat", "a kitten", "a tax return"])
    cat, kitten, tax = (item.embedding for item in answer.data)
    assert len(cat) == 384

    def likeness(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert likeness(cat, kitten) > likeness(cat, tax)
    row = settled(anyone, 1)[0]
    assert row["usage"]["input_tokens"] == answer.usage.prompt_tokens
    assert Decimal(row["charge"]["amount"]) == charge_of(row, answer.usage)


def test_curl_streams(cloud: Cloud, anyone: Tenant) -> None:
    argv = ["curl", "-sSN", f"{cloud.base_url}/v1/chat/completions", "-H", f"Authorization: Bearer {anyone.key['key']}"]
    argv += ["-H", "Content-Type: application/json", "-d", json.dumps({**QUESTION, "stream": True})]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stdout.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["model"] == CHAT_MODEL


def test_chat_and_usage_of_the_command_line(cloud: Cloud, anyone: Tenant, cli: Cli) -> None:
    chatted = cli("chat", "Say hello.", "--max-tokens", "8", "--key", anyone.key["key"])
    assert chatted.code == 0, chatted.err
    assert chatted.out.strip()
    assert chatted.err == ""
    row = settled(anyone, 1)[0]
    listed = cli("usage", "--key", anyone.management_key(), "--format", "json")
    assert listed.code == 0, listed.err
    assert [item["id"] for item in listed.json()] == [row["id"]]
    lines = row["charge"]["lines"]
    exact = sum(Decimal(line["price"]) * line["quantity"] for line in lines) / 1_000_000
    assert Decimal(listed.json()[0]["charge"]["amount"]) == exact
    table = cli("usage", "--org", anyone.organization_id)
    assert f"{row['charge']['amount']} USD" in table.out


def test_a_long_prompt_that_comes_again_is_cheaper_and_the_summary_says_how_much_of_it_was_kept(
    client: openai.OpenAI, anyone: Tenant, cli: Cli
) -> None:
    words = " ".join(f"{number} bees from hive {id(anyone) % 1000 + number}." for number in range(60))
    for _ in range(2):
        client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": words}], max_tokens=2)
    again, first = settled(anyone, 2)
    lines = {line["kind"]: line for line in again["charge"]["lines"]}
    cached = again["usage"]["cached_input_tokens"]
    assert lines["cached_input"]["quantity"] == cached > again["usage"]["input_tokens"] * 0.9
    assert lines["input"]["quantity"] == again["usage"]["input_tokens"] - cached
    assert Decimal(again["charge"]["amount"]) < Decimal(first["charge"]["amount"])
    (group,) = cli(
        "usage", "--summary", "--by", "day_model", "--key", anyone.management_key(), "--format", "json"
    ).json()
    assert (group["model"], group["requests"]) == (CHAT_MODEL, 2)
    assert group["cached_input_tokens"] == cached + first["usage"]["cached_input_tokens"]
    assert group["cache_hit_rate"] == round(group["cached_input_tokens"] / group["input_tokens"], 4) > 0.45


def test_the_ledger_verifies_and_the_balance_is_what_is_left(anyone: Tenant, client: openai.OpenAI, cli: Cli) -> None:
    key = anyone.management_key()
    before = Decimal(cli("ledger", "balance", "--key", key, "--format", "json").json()["amount"])
    client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    charge = Decimal(settled(anyone, 1)[0]["charge"]["amount"])
    after = Decimal(cli("ledger", "balance", "--key", key, "--format", "json").json()["amount"])
    assert before - after == charge
    verified = cli("ledger", "verify", "--key", key, "--format", "json")
    assert verified.code == 0, verified.err
    assert verified.json()["events_replayed"] == 1
