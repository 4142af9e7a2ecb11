"""What the command line makes of jobs' logs and files' names."""

from pathlib import Path

import pytest

from cloudcrest.cli.errors import Refused
from cloudcrest.cli.job_output import Event, events, local_path


def test_events_are_read_with_their_names_and_ids() -> None:
    lines = [": still here", "", "event: log", "id: 1:5", 'data: {"text": "hello"}', "", "event: end", "data: {}"]
    assert list(events(iter(lines))) == [Event("log", "1:5", {"text": "hello"}), Event("end", "1:5", {})]


def test_a_files_name_stays_in_the_folder() -> None:
    assert local_path(Path("into"), "outputs/a b") == Path("into/outputs/a b")
    for name in ("../x", "/etc/passwd", "a/../../x", "", "."):
        with pytest.raises(Refused):
            local_path(Path("into"), name)
