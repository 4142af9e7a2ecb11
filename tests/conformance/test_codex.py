"""Codex, as people install it, does a small task with a tool: by the Responses API, to a recorded model.

Its tools that OpenAI alone runs (search in the web, agents of its own) are off, as with any other provider.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.tenants import Tenant
from tests.conformance.replay import Call, Replay, Step

TASK = "read the file notes.txt and tell me the word in it"
_SECONDS = 120


@pytest.fixture(scope="module")
def codex(npm_program: Callable[[str, str], Path]) -> Path:
    return npm_program("@openai/codex", "codex")


def test_it_reads_a_file_and_says_what_is_in_it(
    tenant: Tenant,
    codex: Path,
    recorded: Callable[..., tuple[str, Replay]],
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "notes.txt").write_text("The word is heliotrope.\n")
    model, engine = recorded(
        Step("The word is heliotrope.", when="heliotrope"),
        Step("I read it.", calls=[Call("exec_command", {"cmd": "cat notes.txt"})]),
    )
    provider = (
        f'{{name="Cloudcrest",base_url="{tenant.base_url}/v1",env_key="CLOUDCREST_API_KEY",wire_api="responses"}}'
    )
    done = subprocess.run(
        [
            *(str(codex), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
            *("--disable", "multi_agent", "-c", 'web_search="disabled"'),
            *("-c", "model_provider=cloudcrest", "-c", f"model_providers.cloudcrest={provider}"),
            *("-m", model, TASK),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CLOUDCREST_API_KEY": tenant.key["key"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("The word is heliotrope."), done.stdout + done.stderr
    assert not engine.unanswered
    assert "exec_command" in {tool["function"]["name"] for tool in engine.requests[0]["tools"]}
    assert engine.requests[1]["messages"][-1]["role"] == "tool"
