"""Finds tool calls in text that comes in pieces. Pure: any split of a text gives the same calls and the same text."""

from collections.abc import Iterator, Sequence

from cloudcrest.gateway.tools.formats import Call, Form, Schemas
from cloudcrest.kernel.units import MIB

MAX_BLOCK_CHARACTERS = 4 * MIB
"""A block that is longer is let go as text."""

Piece = str | Call


class Finder:
    """One choice's text. `feed` it, then `end` it. White space around calls is not said to the caller."""

    def __init__(self, forms: Sequence[Form], schemas: Schemas) -> None:
        self._forms = forms
        self._schemas = schemas
        self._held = ""
        self._block: Form | None = None
        self._is_at_start = True
        self._is_after_call = False

    def feed(self, text: str) -> list[Piece]:
        """What `text` completes: text that is no part of a call, and calls."""
        self._held += text
        return list(self._pieces())

    def end(self) -> list[Piece]:
        """What was held back: the text ends here."""
        held, self._held = self._held, ""
        if self._block is not None:
            return self._read(self._block, held)
        return [] if not held or (self._is_after_call and not held.strip()) else [held]

    def _pieces(self) -> Iterator[Piece]:
        while self._held:
            if self._block is None:
                yield from self._text()
            block = self._block
            if block is None:
                return
            end = -1 if block.closing is None else self._held.find(block.closing, len(block.opening))
            if end >= 0 and block.closing is not None:
                end += len(block.closing)
            elif len(self._held) > MAX_BLOCK_CHARACTERS:
                end = len(self._held)
            else:
                return
            whole, self._held, self._block = self._held[:end], self._held[end:], None
            yield from self._read(block, whole)

    def _text(self) -> Iterator[Piece]:
        """Lets text go up to where a block begins, or may be beginning."""
        held = self._held
        if (self._is_at_start or self._is_after_call) and not held.strip():
            return
        places = [(*place, form) for form in self._forms if (place := self._place(form)) is not None]
        at, is_partial, form = min(places, key=lambda place: place[:2], default=(len(held), True, None))
        before, rest = held[:at], held[at:]
        if not before.strip() and (self._is_at_start or self._is_after_call):
            before, rest = "", held
        if before:
            self._is_at_start = False
            yield before.lstrip() if self._is_after_call else before
            self._is_after_call = False
        self._held, self._block = rest, None if is_partial else form

    def _place(self, form: Form) -> tuple[int, bool] | None:
        """Where a block of this form begins, and whether only a part of its opening is there yet."""
        held, opening = self._held, form.opening
        if form.at_start:
            if not self._is_at_start:
                return None
            rest = held.lstrip()
            is_partial = not rest.startswith(opening)
            return None if is_partial and not opening.startswith(rest) else (len(held) - len(rest), is_partial)
        at = held.find(opening)
        if at >= 0:
            return at, False
        sizes = range(min(len(opening) - 1, len(held)), 0, -1)
        return next(((len(held) - size, True) for size in sizes if held.endswith(opening[:size])), None)

    def _read(self, form: Form, block: str) -> list[Piece]:
        calls = form.read(block.strip(), self._schemas)
        self._is_at_start = False
        self._is_after_call = bool(calls)
        return [*calls] if calls else [block]
