"""What detectors are given and what they give. Pure.

A detector looks at one segment (segments.py), which is bounded, and at the little that stands before it. So what it
finds does not depend on how a text was cut into pieces on its way.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

CONTEXT_CHARACTERS = 64
"""So much of what stands before a segment is looked at: "passport no." before the number."""
LEAST_CONFIDENCE = 0.5
"""Hits below it are left alone."""
_DIGIT = re.compile("[0-9]")


class Segment(NamedTuple):
    """A normalised piece of text in which a hit may lie, what stands before it, and how many digits it has."""

    text: str
    before: str
    digits: int

    def context(self, start: int, characters: int = 48) -> str:
        """What stands before position `start`, in lower case."""
        return (self.before + self.text[:start])[-characters:].lower()


def segment(text: str, before: str = "") -> Segment:
    """A segment with its digits counted."""
    return Segment(text, before, len(_DIGIT.findall(text)))


class Hit(NamedTuple):
    """Something found at [`start`, `end`) of a segment. `kind`: what policies know it as; `what`: exactly which."""

    start: int
    end: int
    kind: str
    what: str
    confidence: float


Detector = Callable[[Segment], Iterable[Hit]]


def best(hits: Iterable[Hit]) -> list[Hit]:
    """The hits that count, in order and without overlaps: the surest first, then the longest."""
    sure = [hit for hit in hits if hit.confidence >= LEAST_CONFIDENCE]
    sure.sort(key=lambda hit: (-hit.confidence, hit.start - hit.end, hit.start))
    taken: list[Hit] = []
    for hit in sure:
        if all(hit.end <= other.start or other.end <= hit.start for other in taken):
            taken.append(hit)
    return sorted(taken)
