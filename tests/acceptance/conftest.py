"""One cloud for all acceptance tests, run as people run it, and tenants made as people make them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.tenants import Tenant, sign_up
from tests.support.cloud import Cloud, cloud

__all__ = ["cloud"]


@pytest.fixture
def anyone(cloud: Cloud) -> Iterator[Tenant]:
    """A tenant of this test's own."""
    tenant = sign_up(cloud.base_url)
    yield tenant
    tenant.http.close()


@pytest.fixture
def operator(cloud: Cloud) -> Iterator[httpx2.Client]:
    """The management API with the operator's key."""
    headers = {"authorization": f"Bearer {cloud.operator_key}"}
    with httpx2.Client(base_url=cloud.base_url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(cloud: Cloud, tmp_path: Path) -> Cli:
    """Runs the command line against the cloud's data folder, as its own user with no settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDCREST_")}
    environment |= {"CLOUDCREST_DATA": str(cloud.data), "XDG_CONFIG_HOME": str(tmp_path / "config"), "NO_COLOR": "1"}

    def call(*tokens: str, stdin: str | None = None) -> Ran:
        argv = [str(Path(sys.executable).parent / "cloudcrest"), *tokens]
        done = subprocess.run(
            argv, env=environment, input=stdin or "", capture_output=True, text=True, timeout=120, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call
