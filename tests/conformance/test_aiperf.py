"""AIPerf, a load generator that nobody here wrote: what it counts of a run is what is charged, request for request."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.tenants import CHAT_MODEL, Tenant
from tests.conformance.tokenizer import write_tokenizer
from tests.support.waiting import until

REQUESTS = 12
INPUT_TOKENS = 40
OUTPUT_TOKENS = 24
TEMPLATE_TOKENS = 30
"""What SmolLM2's chat template puts around one message of the user."""
_SECONDS = 400
_TOLERATED_TOKENS = 1
"""A sign's bytes may be cut at the end of an answer: then its text is no whole number of tokens."""


@pytest.fixture
def aiperf(
    python_with: Callable[[str], Path], tenant: Tenant, chat_weights: Path, tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """Runs `aiperf profile` with these options too; what it wrote down of each request."""

    def run(*options: str) -> list[dict[str, Any]]:
        folder = tmp_path / "artifacts"
        tokenizer = write_tokenizer(chat_weights, tmp_path / "tokenizer")
        done = subprocess.run(
            [
                *(str(python_with("aiperf") / "aiperf"), "profile", "--url", tenant.base_url, "--model", CHAT_MODEL),
                *("--api-key", tenant.key["key"], "--tokenizer", str(tokenizer), "--random-seed", "7"),
                *("--request-count", str(REQUESTS), "--concurrency", "4"),
                *("--synthetic-input-tokens-mean", str(INPUT_TOKENS), "--output-tokens-mean", str(OUTPUT_TOKENS)),
                *("--output-artifact-dir", str(folder), "--export-level", "records", "--ui", "none"),
                *("--no-server-metrics", "--no-gpu-telemetry", *options),
            ],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (folder / "profile_export.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    ("endpoint", "around_tokens", "options"),
    [
        ("chat", TEMPLATE_TOKENS, ["--streaming"]),
        ("completions", 0, ["--streaming"]),
        ("messages", TEMPLATE_TOKENS, ["--streaming"]),
        # Of streams it reads the usage of those alone that no limit has ended.
        ("responses", TEMPLATE_TOKENS, []),
    ],
)
def test_every_request_succeeds_and_is_charged_what_it_counted(
    aiperf: Callable[..., list[dict[str, Any]]],
    tenant: Tenant,
    endpoint: str,
    around_tokens: int,
    options: list[str],
) -> None:
    records = aiperf("--endpoint-type", endpoint, *options)
    assert [record["error"] for record in records if record.get("error")] == []
    assert len(records) == REQUESTS
    told = [{name: metric["value"] for name, metric in record["metrics"].items()} for record in records]
    for each in told:
        assert each["input_sequence_length"] == INPUT_TOKENS
        assert each["usage_prompt_tokens"] == INPUT_TOKENS + around_tokens
        assert abs(each["output_sequence_length"] - each["usage_completion_tokens"]) <= _TOLERATED_TOKENS

    def charged() -> list[dict[str, Any]] | None:
        rows = [row["usage"] for row in tenant.usage() if row["charge"]]
        return rows if len(rows) == REQUESTS else None

    rows = until(charged, "all that was answered is charged")
    assert rows is not None
    counted = Counter((each["usage_prompt_tokens"], each["usage_completion_tokens"]) for each in told)
    assert Counter((row["input_tokens"], row["output_tokens"]) for row in rows) == counted
