"""How a role is begun."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloudcrest.bootstrap import up
from cloudcrest.bootstrap.__main__ import main


def test_what_a_cloud_writes_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: Sequence[str]) -> int:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("x")
        return 0

    monkeypatch.setattr(up, "main", write)
    before = os.umask(0o022)
    try:
        assert main(["up"]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o600


def test_a_gateway_loads_nothing_for_terminals_or_numbers_and_no_http_client() -> None:
    code = """
import sys
from cloudcrest.bootstrap.__main__ import _load_structlog
_load_structlog()
import cloudcrest.bootstrap.gateway
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "structlog" in loaded
    assert not loaded & {"rich", "pygments", "greenlet", "numpy", "sqlalchemy", "pydantic", "ray", "httpx2"}
