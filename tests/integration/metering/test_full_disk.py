"""A file system that is really full (a small tmpfs): new work is refused, what was let in is recorded to its end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.metering import full_disk_process

MOUNT_AND_RUN = 'mount -t tmpfs -o size=400k tmpfs "$0" && exec "$@"'
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def test_a_full_disk_loses_no_event(tmp_path: Path) -> None:
    check = [*IN_A_NAMESPACE, MOUNT_AND_RUN, str(tmp_path), "true"]
    if shutil.which("unshare") is None or subprocess.run(check, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets no ordinary user mount a tmpfs")
    run = [*IN_A_NAMESPACE, MOUNT_AND_RUN, str(tmp_path), sys.executable, "-m", full_disk_process.__name__]
    process = subprocess.run([*run, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout.splitlines()[-1])
    assert said["was_full"]
    assert len(said["admitted"]) > 100
    assert said["completed"] == sorted(said["admitted"])
    assert said["lost"] == [said["later"]]
