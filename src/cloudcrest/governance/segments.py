"""Where in a text something may be found, decided from left to right: text in pieces gives the same segments.

A segment is a word that could be, or hold, an address, number or secret, or a row of words that are written like parts
of one number ("DE89 3704 0044", "(555) 123-4567"), or the block of a private key. All are bounded. Other text has no
segments, and of a stream nothing is held back but the word that is being written. Pure.
"""

import re
from typing import NamedTuple

from cloudcrest.governance.detectors.hits import CONTEXT_CHARACTERS

MAX_WORD = 4096
MAX_KEY_BLOCK = 8192
_MAX_NUMBER_WORD = 64
_MAX_ROW = 24
ZERO_WIDTH = "\u200b"

_WORD = r"A-Za-z0-9._%+\-@/=~:#!$^&*?\u200b"
_W = rf"[{_WORD}]"
_NO_DIGIT = r"[A-Za-z._%+\-@/=~:#!$^&*?\u200b]"
_PLAIN = r"[A-Za-z._%+\-/=~:#!$^&*?\u200b]"
_GAP = r"(?: {1,2}\(?|\) ?|\()"
# A word that has a digit, or a few capitals, as parts of spelled-out numbers do.
_PART = rf"(?:(?={_NO_DIGIT}{{0,63}}+[0-9]){_W}{{1,{_MAX_NUMBER_WORD}}}+(?!{_W})|[A-Z]{{1,4}}[.:?!]?(?!{_W}))"
# Where a word may begin: not inside one, and not in the middle of an escape such as \n, \t or \u0041.
_BEGIN = rf"(?:(?<![{_WORD}\\])|(?<=\\)(?![bfnrtu])|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{{4}}))"
_KEY_MARK = "-----BEGIN"
_SEGMENT = re.compile(
    rf"{_KEY_MARK}|{_BEGIN}(?:"
    rf"\(?{_PART}(?:{_GAP}{_PART}){{1,{_MAX_ROW}}}+\)?"
    rf"|(?={_PLAIN}{{0,{MAX_WORD - 1}}}+[0-9@]){_W}{{1,{MAX_WORD}}}+"
    rf"|{_W}{{16,{MAX_WORD}}}+"
    r")"
)
_MORE = re.compile(rf"{_W}{{1,{MAX_WORD}}}+")
# What may follow a row of words and still become a part of it: the beginning of a word, or of a gap.
_UNDECIDED = re.compile(rf"{_GAP}?{_W}{{0,{_MAX_NUMBER_WORD}}}+\Z")
_KEY_HEAD = re.compile(r"-----BEGIN (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_HEAD_BEGUN = re.compile(r"-----BEGIN(?: [A-Z]{0,12}){0,6}+-{0,5}\Z")
_KEY_END = re.compile(r"-----END (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
# A row that may have begun: capitals alone, with nothing decided after them.
_ROW_BEGUN = re.compile(rf"{_BEGIN}\(?[A-Z]{{1,4}}[.:?!]?(?:{_GAP}{_W}{{0,{_MAX_NUMBER_WORD}}}+)?\Z")
_ROW_BEGUN_CHARACTERS = _MAX_NUMBER_WORD + 16


def _table() -> dict[int, str]:
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    for zero in (0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50):  # Arabic, Persian, Devanagari, Bengali, Thai digits
        table |= {zero + digit: str(digit) for digit in range(10)}
    table |= dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE63), "-")
    table |= dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2007, 0x2008, 0x2009, 0x200A, 0x202F, 0x3000, 0x09), " ")
    table |= dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF), ZERO_WIDTH)
    return table


_TABLE = _table()


def normalise(text: str) -> str:
    """As detectors see it, character for character: digits, signs and spaces of other scripts as ASCII has them."""
    return text if text.isascii() and "\t" not in text else text.translate(_TABLE)


class Found(NamedTuple):
    """Segments as (start, end), and the position up to which all is decided. `is_cut`: there a word goes on."""

    segments: list[tuple[int, int]]
    decided: int
    is_cut: bool


def find_segments(text: str, start: int, *, is_final: bool, is_cut: bool = False) -> Found:
    """The segments of normalised `text` from `start` on; what stands before is looked back at.

    `is_final`: nothing follows. `is_cut`: `start` is in the middle of a word that was too long.
    """
    segments: list[tuple[int, int]] = []
    position, size = start, len(text)
    while position <= size:
        match = (_MORE.match(text, position) if is_cut else None) or _SEGMENT.search(text, position)
        if match is None:
            break
        begin, end = match.span()
        mark = text.find(_KEY_MARK, begin, end)
        if mark > begin:  # it has a segment of its own
            segments.append((begin, mark))
            position, is_cut = mark, False
            continue
        if mark == begin:
            block = _key_block(text, begin, is_final=is_final)
            if block is None:
                return Found(segments, begin, False)
            end = max(block, end)
        elif not is_final and _UNDECIDED.match(text, end) is not None and not _is_full(text, begin, end):
            return Found(segments, begin if is_cut else max(position, _before_escape(text, begin)), is_cut)
        segments.append((begin, end))
        is_cut = end - begin >= MAX_WORD and end < size and _MORE.match(text, end) is not None
        position = end
    if is_final:
        return Found(segments, size, False)
    tail = len(text.rstrip(_WORD_CHARACTERS))
    begun = _ROW_BEGUN.search(text, max(position, size - _ROW_BEGUN_CHARACTERS))
    if begun is not None:
        tail = min(tail, begun.start())
    return Found(segments, max(position, _before_escape(text, tail)), False)


def _is_full(text: str, begin: int, end: int) -> bool:
    """Whether a word is as long as words get, and more of it has come: it is decided."""
    return end - begin >= MAX_WORD and end < len(text)


def _key_block(text: str, begin: int, *, is_final: bool) -> int | None:
    """Where the private key that may begin here ends; its mark's end where it is none, None where that is not known."""
    head = _KEY_HEAD.match(text, begin)
    if head is None:
        is_open = not is_final and _KEY_HEAD_BEGUN.match(text, begin) is not None
        return None if is_open else begin + len(_KEY_MARK)
    tail = _KEY_END.search(text, head.end(), begin + MAX_KEY_BLOCK)
    if tail is not None:
        return tail.end()
    if len(text) >= begin + MAX_KEY_BLOCK:
        return begin + MAX_KEY_BLOCK
    return len(text) if is_final else None


_WORD_CHARACTERS = "".join(chr(code) for code in range(128) if re.match(_W, chr(code))) + ZERO_WIDTH


def _before_escape(text: str, position: int) -> int:
    """`position`, or that of the backslash, bracket or hyphens before it, which go with what follows."""
    if position > 0 and text[position - 1] in "\\(":
        return position - 1
    return position


def kept_before(decided: int) -> int:
    """From where on a decided text is kept, to be looked back at."""
    return max(0, decided - CONTEXT_CHARACTERS)
