"""The short way of a stream: chunks in which nothing is to be read go to the client as they came, in one call each.

The chunks of a stream differ in the word that they bring. One that begins and ends as an earlier one that was looked
through, and whose word is one JSON string, has nothing else to be found in it.
"""

from collections.abc import Callable
from typing import Final

from cloudcrest.gateway.http1 import one_chunk_at
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.sse import StreamScanner

_WORD: Final = b'"content":"'
_QUOTE: Final = 0x22
_LINE_FEED: Final = 0x0A
_MAX_SHAPES: Final = 16
"""Of a stream: one whose chunks differ in more than a word is looked through."""


def passage(scanner: StreamScanner, kept: Kept, write: Callable[[bytes], None]) -> Callable[[bytes], bool]:
    """Takes a read that is one whole chunk with its framing. False: nothing was done, and the scanner is to be fed.

    What it writes, it counts for the scanner and keeps. It takes chunks of whole events, each a JSON object, none of
    which the scanner would look into. A quotation mark inside text is escaped, so text is never taken for a field.
    """
    keep, max_bytes = kept.parts.append, kept.max_bytes
    before = after = b""
    heads: dict[int, bytes] = {}  # by a chunk's size: its line, and what comes before its word
    shapes_left = _MAX_SHAPES

    def take(chunk: bytes) -> bool:
        nonlocal before, after, shapes_left
        if scanner.partial:
            return False
        size_bytes = len(chunk)
        head = heads.get(size_bytes)
        if head is not None and chunk[: len(head)] == head and chunk[-len(after) :] == after:
            word = chunk[len(head) : -len(after)]
            is_word = _QUOTE not in word and _LINE_FEED not in word
        else:
            is_word = False
        if is_word:
            scanner.events += 1
        else:
            at = one_chunk_at(chunk)
            if not at or not _has_nothing_to_read(chunk):
                return False
            events = chunk.count(b"\n\n", at)
            scanner.events += events
            is_alike = before and size_bytes - at >= len(before) + len(after)  # else the two lie over each other
            if is_alike and chunk.startswith(before, at) and chunk.endswith(after):
                heads[size_bytes] = chunk[: at + len(before)]
            elif events == 1 and shapes_left:
                shapes_left -= 1
                heads.clear()
                before, after = _around_word(chunk, at)
        keep(chunk)
        kept.size_bytes += size_bytes
        if kept.size_bytes > max_bytes:
            kept.said()
        write(chunk)
        return True

    return take


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
