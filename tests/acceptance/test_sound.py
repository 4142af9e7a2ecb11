"""Speech in a whole cloud: what one model says another hears, charged by the character and by the second, exactly."""

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.acceptance.tenants import Tenant, answered, infer, sign_up
from tests.support.cloud import Cloud, new_cloud
from tests.support.sound import SENTENCE, SPEECH_MODEL, TRANSCRIPTION_MODEL, share_heard
from tests.support.waiting import until

CHARACTER, SECOND = Decimal(4) / 1_000_000, Decimal("0.00003")
"""What the seeded rate cards say."""


@pytest.fixture(scope="module")
def studio() -> Iterator[Cloud]:
    """A cloud with both models, deployed as an operator does it: their runtimes are made on first use."""
    with new_cloud(flags=["--no-default-models"]) as cloud:
        cloud.start()
        for model in (SPEECH_MODEL, TRANSCRIPTION_MODEL):
            done = run(cloud, "deployments", "create", model, "--wait", "--slots", "2")
            assert done.returncode == 0, done.stderr
        yield cloud


@pytest.fixture
def tenant(studio: Cloud) -> Iterator[Tenant]:
    made = sign_up(studio.base_url)
    yield made
    made.http.close()


@pytest.fixture
def client(studio: Cloud, tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{studio.base_url}/v1", api_key=tenant.key["key"], max_retries=0)


def run(cloud: Cloud, *tokens: str) -> "subprocess.CompletedProcess[str]":
    argv = [str(Path(sys.executable).parent / "cloudcrest"), *tokens, "--data", str(cloud.data)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=170, check=False)


def charged(tenant: Tenant, requests: int) -> list[dict[str, Any]]:
    """The tenant's usage once so many requests are priced, oldest first."""

    def look() -> list[dict[str, Any]] | None:
        rows = tenant.usage()
        return rows if len(rows) >= requests and all(row["charge"] for row in rows) else None

    rows = until(look, f"{requests} requests are in the ledger")
    assert rows is not None
    assert len(rows) == requests
    return rows[::-1]


def test_what_is_said_is_heard_and_both_cost_what_the_rate_cards_say(
    studio: Cloud, client: openai.OpenAI, tenant: Tenant
) -> None:
    said = client.audio.speech.create(model=SPEECH_MODEL, voice="joe", input=SENTENCE, response_format="flac").content
    heard = client.audio.transcriptions.create(
        model=TRANSCRIPTION_MODEL, file=("said.flac", said), response_format="verbose_json"
    )
    assert share_heard(SENTENCE, heard.text) > 0.8
    assert heard.segments
    spoken, listened = charged(tenant, 2)
    assert (spoken["model"], spoken["usage"]["characters"]) == (SPEECH_MODEL, len(SENTENCE))
    assert Decimal(spoken["charge"]["amount"]) == CHARACTER * len(SENTENCE)
    milliseconds = listened["usage"]["audio_milliseconds"]
    assert milliseconds == round(heard.duration * 1000)
    assert Decimal(listened["charge"]["amount"]) == SECOND * milliseconds / 1000
    verified = run(studio, "ledger", "verify")
    assert verified.returncode == 0, verified.stderr


def test_a_client_that_leaves_pays_for_its_text_once(client: openai.OpenAI, tenant: Tenant) -> None:
    text = "It goes on and on, and nobody listens any more. " * 60
    with client.audio.speech.with_streaming_response.create(
        model=SPEECH_MODEL, voice="joe", input=text, response_format="pcm"
    ) as response:
        next(response.iter_bytes(1024))
    [row] = charged(tenant, 1)
    assert (row["outcome"], row["usage"]["characters"]) == ("cancelled", len(text))


def test_a_budget_is_spent_by_speaking_and_a_long_recording_is_not_begun(studio: Cloud, tenant: Tenant) -> None:
    amount = CHARACTER * 100
    answered(tenant.http.post("/api/v1/budgets", json={"amount": str(amount), "period": "total"}), 201)

    def say(characters: int, voice: str = "joe") -> tuple[int, str]:
        body = {"model": SPEECH_MODEL, "input": "a" * characters, "response_format": "pcm", "voice": voice}
        response = infer(studio.base_url, tenant.key["key"], "POST", "/v1/audio/speech", json=body)
        return response.status_code, "" if response.status_code == 200 else response.json()["error"]["code"]

    # With a voice that there is not: what is asked before the gateway knows costs nothing.
    until(lambda: say(101, "nobody") == (429, "insufficient_quota"), "the gateway knows of the budget")
    assert say(60) == (200, "")
    assert say(60) == (429, "insufficient_quota")
    assert say(40) == (200, "")
    unknown_length = {"file": ("a.mp3", b"ID3" + bytes(100_000))}
    response = infer(
        studio.base_url,
        tenant.key["key"],
        "POST",
        "/v1/audio/transcriptions",
        files=unknown_length,
        data={"model": TRANSCRIPTION_MODEL},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (429, "insufficient_quota")


def test_the_command_line_speaks_and_transcribes(studio: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "said.mp3"
    spoken = run(studio, "speak", SENTENCE, "-o", str(file), "--format", "json")
    assert spoken.returncode == 0, spoken.stderr
    assert file.read_bytes()[:3] == b"ID3"
    assert [path.name for path in tmp_path.iterdir()] == ["said.mp3"]
    text = run(studio, "transcribe", str(file))
    assert share_heard(SENTENCE, text.stdout) > 0.8
    assert run(studio, "transcribe", str(file), "--subtitles", "vtt").stdout.startswith("WEBVTT\n")
    wrong = run(studio, "transcribe", __file__)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "no format that is known" in wrong.stderr
