"""Microsoft Presidio's pattern recognizers as one more detector, where an operator has installed and switched them on.

They know identity numbers that are not in national_id.py. Presidio is sure of a number whose check digit fits, which
one in ten does by chance, so a hit counts only after one of the recognizer's own context words. What needs a language
model (names, places) is left out: it looks at whole sentences and cannot decide within a stream. So are recognizers
that fetch lists from the network when they are first used.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cloudcrest.governance.detectors.hits import Detector, Hit, Segment
from cloudcrest.kernel.errors import SetupError

_CONFIDENCE = 0.7
_FEWEST_DIGITS = 4
_LONGEST = 256
"""Numbers are short, and how long their patterns take over more is not ours to bound."""
_COUNTRY = re.compile(r"[A-Z]{2}_")
_OF_COMPANIES = re.compile(r"_(?:ABN|ACN|UEN|GSTIN|BRN|ORGANISATIONSNUMMER|COMPANY|VAT_CODE|VEHICLE|VAT|HANDELS)")
_FETCHING = frozenset(("EMAIL_ADDRESS", "URL", "DOMAIN_NAME"))


class _Recognizer(NamedTuple):
    """One of theirs, its entities by our kinds, and the words of which one has to stand before."""

    analyze: Any
    kinds: dict[str, str]
    words: tuple[str, ...]


def presidio_detector() -> Detector:
    """Loads them, which takes seconds and a hundred megabytes. Raises `SetupError` where Presidio is not installed."""
    try:
        from presidio_analyzer import PatternRecognizer, predefined_recognizers
    except ImportError as error:
        raise SetupError(
            f"Presidio cannot be loaded: {error}",
            hint="install it with `pip install cloudcrest[presidio]`, or leave CLOUDCREST_PRESIDIO out",
        ) from error
    classes = [getattr(predefined_recognizers, name) for name in dir(predefined_recognizers)]
    return over(
        made()
        for made in classes
        if isinstance(made, type) and issubclass(made, PatternRecognizer) and made is not PatternRecognizer
    )


def over(recognizers: Iterable[Any]) -> Detector:
    """A detector over recognizers with Presidio's face: `supported_entities`, `context`, `analyze`."""
    usable = [found for each in recognizers if (found := _usable(each)) is not None]

    def detect(segment: Segment) -> Iterator[Hit]:
        if segment.digits < _FEWEST_DIGITS or len(segment.text) > _LONGEST:
            return
        before = segment.context(len(segment.text), len(segment.text) + 48)
        for recognizer in usable:
            if not any(word in before for word in recognizer.words):
                continue
            for found in recognizer.analyze(segment.text, list(recognizer.kinds), None):
                context = segment.context(found.start)
                if any(word in context for word in recognizer.words):
                    kind = recognizer.kinds[found.entity_type]
                    what = found.entity_type.lower().replace("_", " ")
                    yield Hit(found.start, found.end, kind, what, min(found.score, _CONFIDENCE))

    return detect


def _usable(recognizer: Any) -> _Recognizer | None:
    kinds = {entity: kind for entity in recognizer.supported_entities if (kind := _kind(entity)) is not None}
    words = tuple(word.lower() for word in recognizer.context or ())
    return _Recognizer(recognizer.analyze, kinds, words) if kinds and words else None


def _kind(entity: str) -> str | None:
    """What policies know an entity as; None: nothing of ours, or known better by our own detectors."""
    if entity in _FETCHING or _OF_COMPANIES.search(entity):
        return None
    if "PASSPORT" in entity:
        return "passport"
    return "national_id" if _COUNTRY.match(entity) or entity == "MEDICAL_LICENSE" else None
