"""Check digits of identity numbers that python-stdnum does not know. Pure."""

import re

_NRIC_LETTERS = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "KLJNPQRTUWX"}
_NRIC_WEIGHTS = (2, 7, 6, 5, 4, 3, 2)
_NRIC_OFFSETS = {"S": 0, "T": 4, "F": 0, "G": 4, "M": 3}
_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
"""In the order of the numbers 10 to 35 that they stand for."""
_NINO_PREFIXES_NOT_GIVEN = frozenset(("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"))


def is_nino(written: str) -> bool:
    """A UK national insurance number: no check digit, but letters that are not given out (HMRC, NIM39110)."""
    number = written.replace(" ", "")
    return (
        re.fullmatch(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]", number) is not None
        and number[:2] not in _NINO_PREFIXES_NOT_GIVEN
    )


def is_nric(number: str) -> bool:
    """A Singapore NRIC (S, T) or FIN (F, G, M): weighted digits, an offset by the first letter, modulo 11."""
    first = number[0]
    total = _NRIC_OFFSETS[first] + sum(w * int(d) for w, d in zip(_NRIC_WEIGHTS, number[1:8], strict=True))
    place = total % 11
    return number[8] == _NRIC_LETTERS[first][10 - place if first == "M" else place]


def is_hkid(written: str) -> bool:
    """A Hong Kong identity card: letters as 10 to 35, a blank as 36, weights 9 to 1, modulo 11; A is 10."""
    number = re.sub(r"[()]", "", written)
    values = [int(character, 36) for character in number[:-1]]
    if len(number) == 8:
        values.insert(0, 36)
    check = 10 if number[-1] == "A" else int(number[-1])
    return (sum(weight * value for weight, value in zip(range(9, 1, -1), values, strict=True)) + check) % 11 == 0


def is_taiwan_id(number: str) -> bool:
    """A Taiwanese identity number, or a resident certificate of the new form: the letter as two digits, modulo 10."""
    letter = _TAIWAN_LETTERS.index(number[0]) + 10
    digits = [int(digit) for digit in number[1:]]
    total = letter // 10 + 9 * (letter % 10) + sum(w * d for w, d in zip(range(8, 0, -1), digits[:8], strict=True))
    return (total + digits[8]) % 10 == 0
