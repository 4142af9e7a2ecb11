"""Claude Code, as people install it, does a small task with a tool: through a whole cloud to a recorded model."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.tenants import CHAT_MODEL, Tenant
from tests.conformance.replay import Call, Replay, Step, text_of
from tests.support.cloud import Cloud
from tests.support.waiting import until

TASK = "read the file notes.txt and tell me the word in it"
_SECONDS = 120


@pytest.fixture(scope="module")
def claude(npm_program: Callable[[str, str], Path]) -> Path:
    return npm_program("@anthropic-ai/claude-code", "claude")


@pytest.fixture
def ask(
    cloud: Cloud, tenant: Tenant, claude: Path, tmp_path: Path
) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Runs `TASK` with a model, in a folder with notes, as a person who has never used it before."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "notes.txt").write_text("The word is heliotrope.\n")

    def run(model: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "ANTHROPIC_BASE_URL": cloud.base_url,
            "ANTHROPIC_AUTH_TOKEN": tenant.key["key"],
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        return subprocess.run(
            [str(claude), "-p", TASK, "--allowedTools", "Read"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    return run


def test_it_reads_a_file_and_says_what_is_in_it(
    tenant: Tenant,
    recorded: Callable[..., tuple[str, Replay]],
    ask: Callable[[str], "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    model, engine = recorded(
        Step("The word is heliotrope.", when="heliotrope"),
        Step("I read it.", calls=[Call("Read", {"file_path": str(tmp_path / "notes.txt")})], thought="Where is it?"),
    )
    done = ask(model)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "The word is heliotrope."
    assert not engine.unanswered
    asked, told = engine.requests
    assert any(TASK in text_of(message) for message in asked["messages"])
    assert "Read" in {tool["function"]["name"] for tool in asked["tools"]}
    assert told["messages"][-1]["role"] == "tool"
    assert told["messages"][-2]["reasoning_content"] == "Where is it?"
    rows = until(lambda: [row for row in tenant.usage() if row["charge"]][1:] and tenant.usage(), "both are charged")
    assert {row["endpoint"] for row in rows} == {"/v1/messages"}


def test_it_understands_that_a_model_is_too_small_for_its_prompt(
    ask: Callable[[str], "subprocess.CompletedProcess[str]"],
) -> None:
    done = ask(CHAT_MODEL)
    assert done.returncode == 1
    assert "prompt is too long" in done.stdout.lower(), done.stdout + done.stderr
