"""What tests ask of guards: what is found in a text, and what comes out of it."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from cloudcrest.governance.api import Findings, Guard, Placeholders, detectors, detectors_for
from cloudcrest.governance.detectors.hits import CONTEXT_CHARACTERS, Hit, best, segment
from cloudcrest.governance.policy import Actions
from cloudcrest.governance.segments import find_segments, normalise
from cloudcrest.identity.api import GuardrailAction

ALL: dict[str, GuardrailAction] = dict.fromkeys(detectors(), "redact")


def found(text: str) -> list[tuple[str, str]]:
    """(kind, as written) of all that detectors find, a zero-width character aside."""
    normal = normalise(text)
    hits: list[tuple[str, str]] = []
    for begin, end in find_segments(normal, 0, is_final=True).segments:
        looked_at = segment(normal[begin:end], normal[max(0, begin - CONTEXT_CHARACTERS) : begin])
        all_hits: list[Hit] = [hit for detector in detectors().values() for hit in detector(looked_at)]
        hits += [(hit.kind, text[begin + hit.start : begin + hit.end]) for hit in best(all_hits)]
    return hits


def guarded(
    pieces: Sequence[str], actions: Actions = ALL, *, is_json: bool = False
) -> tuple[str, Counter[tuple[str, str]]]:
    """What goes out of a text in these pieces, and what was counted."""
    findings = Findings()
    guard = Guard(actions, detectors_for(actions), Placeholders(), findings, is_json=is_json)
    out = "".join([guard.feed(piece) for piece in pieces]) + guard.end()
    return out, findings.counts


def cut(text: str, places: Sequence[int]) -> list[str]:
    """A text cut at these places."""
    return [text[start:end] for start, end in pairwise([0, *sorted(places), len(text)])]
