import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from cloudcrest.governance.detectors.hits import segment
from cloudcrest.governance.detectors.presidio import over, presidio_detector
from cloudcrest.kernel.errors import SetupError


class Fake:
    """A recognizer with Presidio's face that takes every run of ten digits."""

    def __init__(self, entity: str, context: list[str]) -> None:
        self.supported_entities = [entity]
        self.context = context

    def analyze(self, text: str, entities: list[str], _: object) -> list[Any]:
        start = text.find("1234567893")
        return [SimpleNamespace(entity_type=entities[0], start=start, end=start + 10, score=1.0)] if start >= 0 else []


def test_a_hit_counts_after_one_of_its_words() -> None:
    detect = over([Fake("US_NPI", ["NPI", "provider"])])
    (hit,) = detect(segment("1234567893", "the NPI is "))
    assert (hit.start, hit.end, hit.kind, hit.what, hit.confidence) == (0, 10, "national_id", "us npi", 0.7)
    assert list(detect(segment("1234567893", "order "))) == []
    assert list(detect(segment("1234567893:npi", ""))) == []


@pytest.mark.parametrize("entity", ["EMAIL_ADDRESS", "URL", "AU_ABN", "DATE_TIME"])
def test_what_fetches_or_is_no_persons_is_left_out(entity: str) -> None:
    assert list(over([Fake(entity, ["npi"])])(segment("1234567893", "npi "))) == []


@pytest.mark.skipif(importlib.util.find_spec("presidio_analyzer") is not None, reason="it is installed")
def test_without_it_the_error_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"cloudcrest\[presidio\]"):
        presidio_detector()


@pytest.mark.skipif(importlib.util.find_spec("presidio_analyzer") is None, reason="needs the extra presidio")
def test_the_real_ones_find_what_ours_do_not() -> None:
    (hit,) = presidio_detector()(segment("1234567893", "her NPI number is "))
    assert hit.what == "us npi"
