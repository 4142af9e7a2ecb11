"""Texts under a policy: what is found is told, replaced, or ends the text. For whole texts and for streams.

A stream's text goes out as far as nothing more can be found in it: but for the word that is being written, at once.
However a text is cut into pieces, the same comes out. Pure, but for what it counts.
"""

import re
from collections import Counter

from cloudcrest.governance.detectors.hits import Detector, Hit, best, segment
from cloudcrest.governance.moderation.rules import harmful_words
from cloudcrest.governance.policy import Actions
from cloudcrest.governance.segments import ZERO_WIDTH, find_segments, kept_before, normalise

MAX_PLACEHOLDERS = 10_000
"""Of one request; further values of a kind share one placeholder without a number."""
_QUOTES = re.compile(r'\\.|"', re.DOTALL)
_SEPARATORS = re.compile(r"[\s().\-/]")


class Placeholders:
    """Names for redacted values: the same value has the same one throughout a request and its answer."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._counts: Counter[str] = Counter()

    def name(self, kind: str, value: str) -> str:
        """As in `[EMAIL_1]`. Spaces, separators and capitals make no other value, but of a secret."""
        key = kind, value if kind == "secret" else _SEPARATORS.sub("", value).lower()
        found = self._names.get(key)
        if found is None:
            if len(self._names) >= MAX_PLACEHOLDERS:
                return f"[{kind.upper()}]"
            self._counts[kind] += 1
            found = self._names[key] = f"[{kind.upper()}_{self._counts[kind]}]"
        return found

    def copy(self) -> "Placeholders":
        """For one attempt at an answer, which knows those of the request."""
        twin = Placeholders()
        twin._names, twin._counts = dict(self._names), Counter(self._counts)
        return twin


class Findings:
    """What was found at a stage, by kind and what was done. `blocked`: what ended it."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.blocked: Hit | None = None


class Guard:
    """One text's. `detectors`: of the kinds that `actions` name. `is_json`: it is JSON, and stays so.

    With a block, what stands before the segment goes out and nothing after it: `is_blocked`.
    """

    def __init__(
        self,
        actions: Actions,
        detectors: tuple[Detector, ...],
        placeholders: Placeholders,
        findings: Findings,
        *,
        is_json: bool = False,
    ) -> None:
        self._actions = actions
        self._detectors = detectors
        self._placeholders = placeholders
        self._findings = findings
        self._is_json = is_json
        self._in_string = False
        self._text = ""
        self._normal = ""
        self._start = 0
        self._is_cut = False
        self._words = harmful_words(actions)
        self.is_blocked = False

    def feed(self, text: str) -> str:
        """A piece of it; what can go out now."""
        return self._next(text, is_final=False)

    def end(self) -> str:
        """Nothing follows: the rest."""
        return self._next("", is_final=True)

    def whole(self, text: str) -> str:
        """All of a text at once."""
        return self._next(text, is_final=True)

    def _next(self, text: str, *, is_final: bool) -> str:
        if self.is_blocked:
            return ""
        self._text += text
        self._normal += normalise(text)
        start = self._start
        found = find_segments(self._normal, start, is_final=is_final, is_cut=self._is_cut)
        hits: list[Hit] = []
        for begin, end in found.segments:
            hits += self._look_at(begin, end)
        if self._words is not None:
            hits += self._words(self._normal, start, found.decided)
            hits.sort()
        out = self._out(hits, start, found.decided)
        kept = kept_before(found.decided)
        self._text, self._normal = self._text[kept:], self._normal[kept:]
        self._start, self._is_cut = found.decided - kept, found.is_cut
        return out

    def _look_at(self, begin: int, end: int) -> list[Hit]:
        """The hits of a segment, as positions in what is kept."""
        text, before = self._normal[begin:end], self._normal[kept_before(begin) : begin]
        places: list[int] | None = None
        if ZERO_WIDTH in text:
            places = [index for index, character in enumerate(text) if character != ZERO_WIDTH]
            places.append(len(text))
            text = text.replace(ZERO_WIDTH, "")
        looked_at = segment(text, before)
        hits = best(hit for detector in self._detectors for hit in detector(looked_at) if hit.kind in self._actions)
        return [
            hit._replace(
                start=begin + (hit.start if places is None else places[hit.start]),
                end=begin + (hit.end if places is None else places[hit.end - 1] + 1),
            )
            for hit in hits
        ]

    def _out(self, hits: list[Hit], start: int, end: int) -> str:
        pieces: list[str] = []
        for hit in hits:
            action = self._actions[hit.kind]
            self._findings.counts[hit.kind, action] += 1
            if action == "block":
                pieces.append(self._clear(start, hit.start))
                self.is_blocked = True
                self._findings.blocked = hit
                return "".join(pieces)
            if action == "redact" and hit.start >= start:
                pieces.append(self._clear(start, hit.start))
                pieces.append(self._redacted(hit))
                start = hit.end
        pieces.append(self._clear(start, end))
        return "".join(pieces)

    def _clear(self, start: int, end: int) -> str:
        text = self._text[start:end]
        if self._is_json:
            for quote in _QUOTES.findall(text):
                self._in_string ^= quote == '"'
        return text

    def _redacted(self, hit: Hit) -> str:
        name = self._placeholders.name(hit.kind, self._normal[hit.start : hit.end])
        return f'"{name}"' if self._is_json and not self._in_string else name
