"""A problem document as the sentence that a command prints."""

import httpx2
import pytest

from cloudcrest.cli.client import refusal


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("must be between 0 and 9", "engine_options.spins: must be between 0 and 9"),
        ("engine simulated has no option 'spins'", "engine simulated has no option 'spins'"),
    ],
)
def test_a_wrong_field_is_named_once(detail: str, said: str) -> None:
    problem = {"detail": detail, "errors": [{"field": "engine_options.spins", "message": detail}]}
    assert refusal(httpx2.Response(400, json=problem)).message == said
