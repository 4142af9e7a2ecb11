"""Bank accounts: IBAN (ISO 13616: the country's length, remainder 97) and, after a word for it, BIC (ISO 9362)."""

import re
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
"""Characters in all, by country: the registry of ISO 13616."""
_BEGIN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})[0-9]{2}(?=[ -]?[A-Za-z0-9])")
_SHORTEST = 8
_BIC = re.compile(r"(?<![A-Za-z0-9])[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?(?![A-Za-z0-9])")
_BIC_CONTEXT = re.compile(r"\b(?:bic|swift)\b[^a-z0-9\n]{0,3}(?:code|no|number)?[^a-z0-9\n]{0,4}$")


def ibans(segment: Segment) -> Iterator[Hit]:
    """In one piece or in groups of four."""
    text = segment.text
    if len(text) < _SHORTEST:
        return
    for match in _BEGIN.finditer(text):
        length = _LENGTHS.get(match[1].upper())
        end = _end(text, match.start(), length) if length is not None else None
        if end is not None and _is_valid(text[match.start() : end]):
            yield Hit(match.start(), end, "iban", "IBAN", 0.97)
    for match in _BIC.finditer(text):
        if _BIC_CONTEXT.search(segment.context(match.start())):
            yield Hit(match.start(), match.end(), "iban", "BIC", 0.7)


def _end(text: str, start: int, length: int) -> int | None:
    """Where so many letters and digits end, single spaces or hyphens between; None where they do not, or go on."""
    count, position = 0, start
    while count < length:
        if position >= len(text):
            return None
        if text[position].isalnum():
            count += 1
        elif text[position] not in " -" or not text[position - 1].isalnum():
            return None
        position += 1
    return None if position < len(text) and text[position].isalnum() else position


def _is_valid(written: str) -> bool:
    number = re.sub(r"[ -]", "", written).upper()
    if " " not in written and "-" not in written and not number.isascii():
        return False
    turned = number[4:] + number[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
