"""Qwen Code, as people install it, does a small task with a tool: through a whole cloud to a recorded model."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.tenants import Tenant
from tests.conformance.replay import Call, Replay, Step, text_of
from tests.support.waiting import until

TASK = "read the file notes.txt and tell me the word in it"
_SECONDS = 120


@pytest.fixture(scope="module")
def qwen(npm_program: Callable[[str, str], Path]) -> Path:
    return npm_program("@qwen-code/qwen-code", "qwen")


@pytest.mark.parametrize("root", ["/v1", "/compatible-mode/v1"])
def test_it_reads_a_file_and_says_what_is_in_it(
    root: str, tenant: Tenant, qwen: Path, recorded: Callable[..., tuple[str, Replay]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    notes = tmp_path / "notes.txt"
    notes.write_text("The word is heliotrope.\n")
    model, engine = recorded(
        Step("The word is heliotrope.", when="heliotrope"),
        Step("I read it.", calls=[Call("read_file", {"file_path": str(notes)})]),
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "OPENAI_BASE_URL": f"{tenant.base_url}{root}",
        "OPENAI_API_KEY": tenant.key["key"],
        "OPENAI_MODEL": model,
        "QWEN_TELEMETRY_ENABLED": "false",
    }
    done = subprocess.run(
        [str(qwen), "--yolo", "--auth-type", "openai", "--telemetry=false", TASK],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("The word is heliotrope."), done.stdout + done.stderr
    assert not engine.unanswered
    asked, told = engine.requests[:2]
    assert any(TASK in text_of(message) for message in asked["messages"])
    assert "read_file" in {tool["function"]["name"] for tool in asked["tools"]}
    assert told["messages"][-1]["role"] == "tool"
    rows = until(lambda: [row for row in tenant.usage() if row["charge"]][1:] and tenant.usage(), "both are charged")
    assert {row["endpoint"] for row in rows} == {"/v1/chat/completions"}
