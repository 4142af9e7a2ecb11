"""compatcanary, which looks for what OpenAI's clients rely on, finds all of it, in front of a recorded model."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.tenants import Tenant
from tests.conformance.replay import Call, Replay, Step

_SECONDS = 240


def test_all_probes_pass(
    npm_program: Callable[[str, str], Path],
    recorded: Callable[..., tuple[str, Replay]],
    tenant: Tenant,
    tmp_path: Path,
) -> None:
    model, engine = recorded(
        Step("CANARY_OK", when="Reply briefly", repeats=True),
        Step(calls=[Call("compatcanary_echo", {"value": "CANARY_OK"})], when="Call the provided tool"),
        Step('{"status": "ok"}', when="Return the requested"),
    )
    program = npm_program("compatcanary@0.2.2", "compatcanary")
    done = subprocess.run(
        [
            *(str(program), "scan", "--base-url", f"{tenant.base_url}/v1", "--model", model),
            *("--format", "json", "--timeout", "60", "--fail-on", "never"),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OPENAI_API_KEY": tenant.key["key"]},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not engine.unanswered
    results = json.loads(done.stdout)["results"]
    assert len(results) >= 7
    assert [result for result in results if result["status"] != "pass"] == []
