"""The rule model: which words of a text the lexicon has something against. Pure.

Words are compared without capitals, with digits and signs read as the letters they stand for (k1ll, $ex), runs of three
and more letters as one, and invisible characters left out.
"""

import re
from collections.abc import Callable

from cloudcrest.governance.detectors.hits import CONTEXT_CHARACTERS, Hit
from cloudcrest.governance.moderation.categories import CATEGORIES, family
from cloudcrest.governance.moderation.lexicon import LEXICON
from cloudcrest.governance.policy import Actions
from cloudcrest.governance.segments import ZERO_WIDTH

_WORD = re.compile(rf"[A-Za-z0-9@$!{ZERO_WIDTH}]+")
_LETTERS = str.maketrans("0134578@$!", "oieastbasi", ZERO_WIDTH)
_LONG_RUN = re.compile(r"([a-z])\1{2,99}")
_KINDS = frozenset(map(family, CATEGORIES))

Words = Callable[..., list[Hit]]


def plain_word(written: str) -> str:
    """A word as the lexicon has it."""
    word = written.rstrip("!").lower()
    if word.isalpha() and word.isascii():
        return _LONG_RUN.sub(r"\1", word)
    return _LONG_RUN.sub(r"\1", word.translate(_LETTERS))


def judge(text: str, start: int, end: int) -> list[tuple[int, int, str, float]]:
    """(start, end, category, score) of the words in [`start`, `end`) of a normalised text, by what stands before."""
    found: list[tuple[int, int, str, float]] = []
    for match in _WORD.finditer(text, start, end):
        entries = LEXICON.get(plain_word(match[0]))
        if entries is None:
            continue
        before = text[max(0, match.start() - CONTEXT_CHARACTERS) : match.start()]
        said = "".join(plain_word(word) + " " for word in _WORD.findall(before))
        for category, score, pattern in entries:
            if pattern is None or pattern.search(said):
                found.append((match.start(), match.end(), category, score))
    return found


def harmful_words(actions: Actions) -> Words | None:
    """What finds the words of the kinds that a policy names; None where it names none."""
    kinds = _KINDS & actions.keys()
    if not kinds:
        return None

    def words(text: str, start: int, end: int) -> list[Hit]:
        return [
            Hit(begin, stop, family(category), category, score)
            for begin, stop, category, score in judge(text, start, end)
            if family(category) in kinds
        ]

    return words
