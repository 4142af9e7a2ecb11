"""The `dashscope` package against a whole cloud, both generations of its functions, in an environment of its own.

It brings a web framework and a tokenizer with it, so it is none of ours.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.tenants import EMBEDDING_MODEL, Tenant
from tests.conformance.replay import Call, Replay, Step
from tests.support.cloud import Cloud
from tests.support.waiting import until

_SECONDS = 300
_CALLS = Path(__file__).with_name("dashscope_calls.py")
SAID = "It is heliotrope, of all words."


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the package."""
    folder = tmp_path_factory.mktemp("dashscope") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=_SECONDS)
    argv = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "dashscope"]
    subprocess.run(argv, check=True, timeout=_SECONDS)
    return folder / "bin" / "python"


@pytest.fixture
def told(
    cloud: Cloud, tenant: Tenant, recorded: Callable[..., tuple[str, Replay]], python: Path, tmp_path: Path
) -> dict[str, Any]:
    """What its calls came back with."""
    model, _ = recorded(
        Step(SAID, when="say it", repeats=True),
        Step(calls=[Call("look_up", {"in": "notes"})], when="use it", repeats=True),
    )
    done = subprocess.run(
        [str(python), str(_CALLS), cloud.base_url, tenant.key["key"], model, EMBEDDING_MODEL],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_both_generations_of_its_functions(told: dict[str, Any], tenant: Tenant) -> None:
    assert told["version"]
    _check_answers(told["first"])
    _check_streams(told["first"])
    _check_errors(told["first"])
    _check_second(told["second"])
    ids = {told["first"][name]["id"] for name in ("text", "message", "tools", "parts", "vectors", "ranking")}
    until(lambda: ids <= {row["id"] for row in tenant.usage() if row["charge"]}, "all that was answered is charged")


def _message(answer: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = answer["output"]["choices"][0]["message"]
    return message


def _check_answers(first: dict[str, Any]) -> None:
    assert first["text"]["output"]["text"] == first["prompt"]["output"]["text"] == SAID
    assert first["text"]["output"]["finish_reason"] == "stop"
    usage = first["text"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert _message(first["message"])["content"] == _message(first["async"])["content"] == SAID
    assert _message(first["parts"])["content"] == [{"text": SAID}]
    [call] = _message(first["tools"])["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look_up", {"in": "notes"})
    assert [len(each["embedding"]) for each in first["vectors"]["output"]["embeddings"]] == [384, 384]
    [best] = first["ranking"]["output"]["results"]
    assert (best["index"], best["document"]) == (1, {"text": "Penguins live in the Antarctic."})
    assert first["ranking"]["usage"]["total_tokens"] > 0


def _check_streams(first: dict[str, Any]) -> None:
    assert len(first["new"]) > 3
    assert "".join(_message(each)["content"] for each in first["new"]) == SAID
    texts = [_message(each)["content"] for each in first["so far"]]
    assert texts[-1] == SAID
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))
    reasons = [each["output"]["choices"][0]["finish_reason"] for each in first["so far"]]
    assert set(reasons[:-1]) == {"null"}
    assert reasons[-1] == "stop"
    assert first["as text"][-1]["output"]["text"] == SAID
    assert first["as text"][-1]["usage"] == first["text"]["usage"]
    calls = [call for each in first["tools streamed"] for call in _message(each).get("tool_calls") or ()]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"in": "notes"}


def _check_errors(first: dict[str, Any]) -> None:
    assert {name: (first[name]["status"], first[name]["code"]) for name in ("search", "no model", "no key")} == {
        "search": (400, "InvalidParameter"),
        "no model": (404, "ModelNotFound"),
        "no key": (401, "InvalidApiKey"),
    }
    assert "parameters.enable_search" in first["search"]["message"]


def _check_second(second: dict[str, Any]) -> None:
    for name in ("native", "compatible"):
        each = second[name]
        assert each["text"] == each["streamed"] == SAID
        assert each["usage"]["total_tokens"] == each["usage"]["input_tokens"] + each["usage"]["output_tokens"]
        assert [call["function"]["name"] for call in each["calls"]] == ["look_up"]
    assert second["vectors"] == 2
    assert second["ranking"] == [1, 0]
    assert second["no model"][:2] == ["NotFoundError", "ModelNotFound"]
    assert second["search"][:2] == ["BadRequestError", "InvalidParameter"]
