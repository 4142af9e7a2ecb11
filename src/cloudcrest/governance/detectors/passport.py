"""Passport numbers. Countries differ and few have a check digit, so only a word for it before a number makes it one."""

import re
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_NUMBER = re.compile(
    r"(?<![A-Za-z0-9])(?=[A-Z]{0,9}+[0-9])(?:[A-Z]{1,2} ?[0-9]{6,8}|[A-Z0-9]{8,9}|[0-9]{6,9})(?![A-Za-z0-9])"
)
_FEWEST_DIGITS = 4
_CONTEXT = re.compile(
    r"(?:\bpassports?\b|passeport|reisepass|passnummer|\bpasaporte|\bpassaporto|\bpassaporte|\bpaspoort|паспорт|护照|護照|旅券|여권)"
    r"[^0-9\n]{0,24}$"
)


def passports(segment: Segment) -> Iterator[Hit]:
    """A number of a passport's form after a word for one."""
    if segment.digits < _FEWEST_DIGITS:
        return
    for match in _NUMBER.finditer(segment.text):
        if sum(map(str.isdigit, match[0])) >= _FEWEST_DIGITS and _CONTEXT.search(segment.context(match.start())):
            yield Hit(match.start(), match.end(), "passport", "passport number", 0.75)
