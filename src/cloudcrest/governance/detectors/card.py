"""Payment card numbers: an issuer's range, its lengths, and the check digit of ISO/IEC 7812 (Luhn)."""

import re
from collections.abc import Iterator

from stdnum import luhn

from cloudcrest.governance.detectors.hits import Hit, Segment

_RANGES: tuple[tuple[str, int, int, tuple[int, ...]], ...] = (
    ("Visa", 4, 4, (13, 16, 19)),
    ("Mastercard", 51, 55, (16,)),
    ("Mastercard", 2221, 2720, (16,)),
    ("American Express", 34, 34, (15,)),
    ("American Express", 37, 37, (15,)),
    ("Discover", 6011, 6011, (16, 19)),
    ("Discover", 644, 659, (16, 19)),
    ("JCB", 3528, 3589, (16, 19)),
    ("Diners Club", 300, 305, (14, 16)),
    ("Diners Club", 36, 36, (14,)),
    ("Diners Club", 38, 39, (14, 16)),
    ("UnionPay", 62, 62, (16, 17, 18, 19)),
    ("UnionPay", 81, 81, (16, 17, 18, 19)),
    ("Mir", 2200, 2204, (16,)),
    ("RuPay", 6521, 6522, (16,)),
    ("Maestro", 5018, 5018, (16,)),
    ("Maestro", 6759, 6763, (16,)),
)
"""Issuer, first and last beginning of its numbers, and how many digits they have."""


_FEWEST_DIGITS = 13
_FORMS = tuple(
    re.compile(rf"(?<![A-Za-z0-9])(?=({form})(?![A-Za-z0-9]))")
    for form in (
        r"[0-9]{13,19}",
        r"[0-9]{4}(?:[ -][0-9]{4}){3}[ -]?[0-9]{1,3}",
        r"[0-9]{4}(?:[ -][0-9]{4}){3}",
        r"[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5}",
    )
)
"""Without separators, or in groups as cards print them; a row of groups is tried from each of them on."""


def cards(segment: Segment) -> Iterator[Hit]:
    """Numbers of an issuer whose check digit holds."""
    if segment.digits < _FEWEST_DIGITS:
        return
    for form in _FORMS:
        for match in form.finditer(segment.text):
            number = match[1].replace(" ", "").replace("-", "")
            issuer = _issuer(number)
            if issuer is not None and len(set(number)) > 1 and luhn.is_valid(number):
                yield Hit(match.start(1), match.end(1), "card", f"{issuer} card number", 0.95)


def _issuer(number: str) -> str | None:
    for issuer, first, last, lengths in _RANGES:
        if len(number) in lengths and first <= int(number[: len(str(first))]) <= last:
            return issuer
    return None
