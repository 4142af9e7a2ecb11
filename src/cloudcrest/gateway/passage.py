"""The short way of a stream: chunks in which nothing is to be read go to the client as they came, in one call each.

The chunks of a stream differ in the word that they bring. One that begins and ends as an earlier one that was looked
through, and whose word holds neither a quotation mark nor a line's end, has nothing else to be found in it.
"""

from typing import Final

from cloudcrest.gateway.http1 import CHUNK_LINES, MAX_LINE_KNOWN_BYTES, one_chunk_at
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.rounds import RoundTransport
from cloudcrest.gateway.sse import StreamScanner

_WORD: Final = b'"content":"'
_QUOTE: Final = 0x22
_LINE_FEED: Final = 0x0A
_MAX_SHAPES: Final = 16
"""Of a stream: one whose chunks differ in more than a word is looked through."""


class Passage:
    """Of one stream. What it writes, it counts and keeps; the scanner sees the rest. `events`: so many it has written.

    A stream takes turns with many others, so what a chunk costs is what it brings into the caches: the fewer objects,
    the better.
    """

    __slots__ = ("_after", "_before", "_client", "_kept", "_room_bytes", "_scanner", "_shapes_left", "_words", "events")

    def __init__(self, scanner: StreamScanner, kept: Kept, client: RoundTransport) -> None:
        # Of the present run, while nothing else was kept since; and how much of its events may still be.
        self._words: bytearray | None = None
        self._room_bytes = 0
        self._before = self._after = b""
        self._client = client
        self.events = 0
        self._shapes_left = _MAX_SHAPES
        self._scanner = scanner
        self._kept = kept

    def take(self, chunk: bytes) -> bool:
        """Takes a read that is one whole chunk with its framing. False: nothing was done, the scanner is to be fed.

        It takes chunks of whole events, each a JSON object, none of which the scanner would look into. A quotation mark
        inside text is escaped, so text is never taken for a field.
        """
        words, before, after, size_bytes = self._words, self._before, self._after, len(chunk)
        if words is None or size_bytes >= MAX_LINE_KNOWN_BYTES:
            return self._look_through(chunk)
        line = CHUNK_LINES[size_bytes]
        at = len(line)
        word_at, word_end = at + len(before), size_bytes - len(after)
        if word_at > word_end or chunk[word_end:] != after or chunk[:at] != line or chunk[at:word_at] != before:
            return self._look_through(chunk)
        word = chunk[word_at:word_end]
        if _QUOTE in word or _LINE_FEED in word:
            return self._look_through(chunk)
        words += chunk[word_at : word_end + 1]
        self.events += 1
        self._room_bytes -= size_bytes
        if self._room_bytes < 0:
            self._make_room()
        self._client.write(chunk)
        return True

    def _look_through(self, chunk: bytes) -> bool:
        """Takes a chunk that is not known to be like an earlier one."""
        self._words = None
        if self._scanner.partial:
            return False
        at = one_chunk_at(chunk)
        if not at or not _has_nothing_to_read(chunk):
            return False
        events = chunk.count(b"\n\n", at)
        self.events += events
        if events == 1:
            self._learn(chunk, at)
        self._kept.add(chunk)
        if self._before:
            self._words = self._kept.run(self._before, self._after).words
            self._room_bytes = self._kept.max_bytes - self._kept.size_bytes
        self._client.write(chunk)
        return True

    def _make_room(self) -> None:
        self._kept.said()
        self._room_bytes = self._kept.max_bytes

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
