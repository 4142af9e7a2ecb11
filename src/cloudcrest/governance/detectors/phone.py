"""Telephone numbers: international with their country code, and national ones where form or context says so."""

import re
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_INTERNATIONAL = re.compile(r"(?<![A-Za-z0-9])(?:\+|00)([1-9][0-9]{0,2})(?:[ .\-/()]{0,2}[0-9]){5,13}(?![0-9])")
_NO_COUNTRY = frozenset(("28", "83", "89"))
"""All other beginnings are those of countries' codes (ITU E.164)."""
_FORMS = tuple(
    (what, re.compile(rf"(?<![0-9]){form}(?![0-9])"))
    for what, form in (
        ("North American number", r"(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])\d{3}[ .-]\d{4}"),
        ("Chinese mobile number", r"(?<![.+\-])1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})"),
        ("French number", r"0[1-9](?:[ .-]\d{2}){4}"),
        ("British number", r"(?:(?:07\d{3}|01\d{3,4}) ?\d{3} ?\d{3}|02\d \d{4} \d{4})"),
        ("Indian mobile number", r"[6-9]\d{4} \d{5}"),
        ("Japanese number", r"0[789]0-\d{4}-\d{4}"),
        ("Korean mobile number", r"01[016789]-\d{3,4}-\d{4}"),
    )
)
_FEWEST_DIGITS = 7
_ANY = re.compile(r"(?<![A-Za-z0-9])\(?[0-9](?:[ .\-/()]{0,2}[0-9]){6,14}(?![A-Za-z0-9])")
_CONTEXT = re.compile(
    r"(?:\b(?:phone|telephone|tel|mobile|mob|cell|cellphone|fax|whatsapp|sms|call me|call us|call|reach me at|"
    r"telefon|telefono|teléfono|telefone|celular|móvil|handy|portable|téléphone|rufnummer|nummer)\b|电话|手机|电話|携帯|전화)"
    r"[^0-9\n]{0,24}$"
)


def phones(segment: Segment) -> Iterator[Hit]:
    """International ones by their country code, national ones by a form of their own or by what stands before."""
    text = segment.text
    if segment.digits < _FEWEST_DIGITS:
        return
    for match in _INTERNATIONAL.finditer(text):
        if re.sub(r"[^0-9]", "", match[0]).removeprefix("00")[:2] not in _NO_COUNTRY:
            confidence = 0.85 if match[0].startswith("+") else 0.6
            yield Hit(match.start(), match.end(), "phone", "international number", confidence)
    for what, form in _FORMS:
        for match in form.finditer(text):
            yield Hit(match.start(), match.end(), "phone", what, 0.6)
    for match in _ANY.finditer(text):
        if _CONTEXT.search(segment.context(match.start())):
            yield Hit(match.start(), match.end(), "phone", "number after a word for one", 0.75)
