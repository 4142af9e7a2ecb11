"""Schemathesis over the whole management API, as an operator: no 5xx, and answers as the document says.

It runs against a control plane alone, a process over a database of its own: nothing that is made up here starts a
replica, fetches a model or changes what other tests use.
"""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok

from cloudcrest.billing.settings import BillingSettings
from cloudcrest.bootstrap.settings import ControlSettings, LogSettings
from cloudcrest.bootstrap.settings_file import write_settings
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.infra.sealing import Sealer
from tests.support import databases
from tests.support.waiting import until

EXAMPLES_PER_OPERATION = 6
MIN_OPERATIONS = 72
OPERATOR_KEY = "sk-cc-" + "o" * 43

load_all_checks()
PROMISES: list[Any] = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture(scope="module")
def control_plane(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a control plane that runs alone."""
    folder = tmp_path_factory.mktemp("control")
    databases.create_database(postgres, "fuzzed")
    listening = socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    write_settings(folder / "control.json", control_settings(folder, postgres.url("fuzzed"), listening, base_url))
    argv = [sys.executable, "-m", "cloudcrest.bootstrap", "control", "--settings", str(folder / "control.json")]
    lifeline, held = os.pipe()
    environment = {**os.environ, "CLOUDCREST_LIFELINE_FD": str(lifeline)}
    with (folder / "log").open("wb") as log:
        fds = (listening.fileno(), lifeline)
        process = subprocess.Popen(argv, pass_fds=fds, env=environment, stdout=log, stderr=log)
    listening.close()
    os.close(lifeline)
    try:
        until(lambda: process.poll() is not None or answers(base_url), "the control plane answers")
        assert process.poll() is None, (folder / "log").read_text()
        yield base_url
    finally:
        process.terminate()
        process.wait(30)
        os.close(held)
        databases.drop_database(postgres, "fuzzed")


def control_settings(folder: Path, database_url: str, listening: socket.socket, base_url: str) -> ControlSettings:
    """Like those that `up` writes; attempts are not limited, so that accounts are fuzzed too."""
    return ControlSettings(
        listen_fd=listening.fileno(),
        database_url=database_url,
        base_url=base_url,
        data_folder=folder,
        master_key=Sealer.new_master_key(),
        region_token="rt-cc-" + "r" * 43,
        first_api_key="sk-cc-" + "f" * 43,
        operator_api_key=OPERATOR_KEY,
        probe_api_key="sk-cc-" + "p" * 43,
        operator_email="operator@localhost",
        operator_password=None,
        identity=IdentitySettings(attempts_per_address=1_000_000, attempts_per_account=1_000_000),
        billing=BillingSettings(),
        log=LogSettings(level="warning", json=True),
        default_models=False,
    )


def answers(base_url: str) -> bool:
    try:
        return httpx2.get(f"{base_url}/api/v1/openapi.json", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def test_no_input_breaks_the_management_api(control_plane: str) -> None:
    schema = schemathesis.openapi.from_url(f"{control_plane}/api/v1/openapi.json")
    broken: list[str] = []
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    statuses: Counter[int] = Counter()
    for operation in operations:
        for mode in GenerationMode:
            try:
                call_often(operation, mode, statuses)
            except (FailureGroup, Failure) as failure:
                broken.append(f"{operation.label}: {failure}")
    assert len(operations) >= MIN_OPERATIONS
    assert not broken, "\n\n".join(broken)
    # Made-up requests get past the front door: some are served, others refused for different reasons.
    assert {200, 201, 404, 422} <= set(statuses), statuses


def call_often(
    operation: schemathesis.APIOperation,
    mode: GenerationMode,
    statuses: "Counter[int]",
    *,
    key: str = OPERATOR_KEY,
    examples: int = EXAMPLES_PER_OPERATION,
) -> None:
    """Calls an operation with made-up values: fitting ones, or ones that do not."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    def call(case: schemathesis.Case) -> None:
        response = case.call_and_validate(checks=PROMISES, headers={"authorization": f"Bearer {key}"})
        statuses[response.status_code] += 1

    try:
        call()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, f"no request of {operation.label} can be made"
