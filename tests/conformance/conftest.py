"""One cloud for all of a conformance run, models that replay what was recorded, and programs from npm."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.serving.runtimes import find_uv, make_commands
from tests.acceptance.tenants import CHAT_MODEL, Tenant, answered, sign_up
from tests.conformance.replay import Replay, Step, replay
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until

_numbers = itertools.count(1)
_PRICES = {"input_price_per_million_tokens": "1", "output_price_per_million_tokens": "10"}
_HERE = Path(__file__).parent
_INSTALL_SECONDS = 300
_CALLS_SECONDS = 300
_TEST_SECONDS = 900
"""Of the first one, the cloud's start and the installation of a program included."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.conformance)
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """A running cloud with the models that every cloud starts with; its upstreams may be on this machine.

    After all that was run against it, its ledger has to add up.
    """
    with new_cloud(environment={"CLOUDCREST_ALLOWED_UPSTREAMS": "127.0.0.1"}) as started:
        started.start()
        yield started
        with started.client(started.operator_key) as operator:
            assert answered(operator.post("/api/v1/ledger/verify", json={}))["ok"]


@pytest.fixture
def tenant(cloud: Cloud) -> Iterator[Tenant]:
    """A tenant of this test's own."""
    made = sign_up(cloud.base_url)
    yield made
    made.http.close()


@pytest.fixture
def recorded(cloud: Cloud) -> Iterator[Callable[..., tuple[str, Replay]]]:
    """Deploys a model that answers with these steps; its name, and the server behind it."""
    with ExitStack() as stack:
        operator = stack.enter_context(cloud.client(cloud.operator_key))

        def deploy(*steps: Step, model: str = CHAT_MODEL) -> tuple[str, Replay]:
            engine, name = stack.enter_context(replay(*steps)), f"recorded-{next(_numbers)}"
            body = {
                "model": model,
                "name": name,
                "engine": "upstream",
                "engine_options": {"base_url": engine.base_url, "model": "recorded"},
            }
            answered(operator.post("/api/v1/rate-cards", json={"model": name, **_PRICES}), 201)
            path = f"/api/v1/deployments/{answered(operator.post('/api/v1/deployments', json=body), 201)['id']}"
            stack.callback(operator.delete, path)
            until(lambda: answered(operator.get(path))["state"] == "ready", f"the start of {name}")
            return name, engine

        yield deploy


@pytest.fixture(scope="session")
def npm_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Installs a package from npm into a folder of its own; the path of its program."""

    def install(package: str, program: str) -> Path:
        if shutil.which("npm") is None:
            pytest.skip("needs npm (Debian, Ubuntu: apt install npm)")
        folder = tmp_path_factory.mktemp("npm")
        argv = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), package]
        subprocess.run(argv, check=True, timeout=_INSTALL_SECONDS)
        return folder / "node_modules" / ".bin" / program

    return install


@pytest.fixture(scope="session")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of programs of a Python that has requirements/<name>.txt alone, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder, requirements = tmp_path_factory.mktemp(name) / "python", _HERE / "requirements" / f"{name}.txt"
            for argv in make_commands(find_uv(), folder, str(requirements), os.environ.get("PIP_FIND_LINKS")):
                subprocess.run(argv, check=True, timeout=_INSTALL_SECONDS)
            made[name] = folder / "bin"
        return made[name]

    return make


@pytest.fixture
def client_calls(python_with: Callable[[str], Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs `<client>_calls.py` with a Python that has requirements/<client>.txt alone; the JSON that it prints."""

    def run(client: str, tenant: Tenant, *arguments: str) -> dict[str, Any]:
        module = f"tests.conformance.{client}_calls"
        done = subprocess.run(
            [str(python_with(client) / "python"), "-m", module, tenant.base_url, tenant.key["key"], *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(_HERE.parents[1])},
            capture_output=True,
            text=True,
            timeout=_CALLS_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    return run
