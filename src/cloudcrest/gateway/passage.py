"""The short way of a stream: chunks in which nothing is to be read go to the client as they came, in one call each.

The chunks of a stream differ in the word that they bring. One that begins and ends as an earlier one that was looked
through, and whose word is one JSON string, has nothing else to be found in it.
"""

from collections.abc import Callable
from typing import Final

from cloudcrest.gateway.http1 import CHUNK_LINES, MAX_LINE_KNOWN_BYTES, one_chunk_at
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.sse import StreamScanner

_WORD: Final = b'"content":"'
_QUOTE: Final = 0x22
_LINE_FEED: Final = 0x0A
_BACKSLASH: Final = 0x5C
_MAX_SHAPES: Final = 16
"""Of a stream: one whose chunks differ in more than a word is looked through."""


class Passage:
    """Of one stream. What it writes, it counts for the scanner and keeps."""

    __slots__ = ("_after", "_before", "_kept", "_scanner", "_shapes_left", "_write")

    def __init__(self, scanner: StreamScanner, kept: Kept, write: Callable[[bytes], None]) -> None:
        self._scanner = scanner
        self._kept = kept
        self._write = write
        self._before = self._after = b""
        self._shapes_left = _MAX_SHAPES

    def take(self, chunk: bytes) -> bool:
        """Takes a read that is one whole chunk with its framing. False: nothing was done, the scanner is to be fed.

        It takes chunks of whole events, each a JSON object, none of which the scanner would look into. A quotation mark
        inside text is escaped, so text is never taken for a field.
        """
        if self._scanner.partial:
            return False
        before, after, size_bytes = self._before, self._after, len(chunk)
        if not before or size_bytes >= MAX_LINE_KNOWN_BYTES:
            return self._look_through(chunk)
        line = CHUNK_LINES[size_bytes]
        at = len(line)
        word_at, word_end = at + len(before), size_bytes - len(after)
        if word_at > word_end or chunk[word_end:] != after or chunk[:at] != line or chunk[at:word_at] != before:
            return self._look_through(chunk)
        word = chunk[word_at:word_end]
        # A string that seems to end in a backslash may end elsewhere.
        if _QUOTE in word or _LINE_FEED in word or (word and word[-1] == _BACKSLASH):
            return self._look_through(chunk)
        self._scanner.events += 1
        self._kept.add_word(before, word, after)
        self._write(chunk)
        return True

    def _look_through(self, chunk: bytes) -> bool:
        """Takes a chunk that is not known to be like an earlier one."""
        at = one_chunk_at(chunk)
        if not at or not _has_nothing_to_read(chunk):
            return False
        events = chunk.count(b"\n\n", at)
        self._scanner.events += events
        if events == 1:
            self._learn(chunk, at)
        self._kept.add(chunk)
        self._write(chunk)
        return True

    def _learn(self, chunk: bytes, at: int) -> None:
        """Knows the next chunk that is like this one but for its word."""
        before, after = self._before, self._after
        is_known = before and chunk.startswith(before, at) and chunk.endswith(after)
        if self._shapes_left and not (is_known and len(chunk) - at >= len(before) + len(after)):
            self._shapes_left -= 1
            self._before, self._after = _around_word(chunk, at)


def _has_nothing_to_read(chunk: bytes) -> bool:
    # By `find`: bytes take `in` for a question about a number first, and write an error to themselves.
    return (
        chunk.endswith(b"}\n\n\r\n")
        and chunk.find(b'"usage"') < 0
        and chunk.find(b'"error"') < 0
        and chunk.find(b"[DONE]") < 0
    )


def _around_word(chunk: bytes, at: int) -> tuple[bytes, bytes]:
    """What stands before and after the word of a chunk whose payload begins at `at`; empty where there is none."""
    word_at = chunk.rfind(_WORD, at) + len(_WORD)
    word_end = chunk.find(b'"', word_at)
    if word_at <= at + len(_WORD) or word_end < 0:
        return b"", b""
    return chunk[at:word_at], chunk[word_end:]
