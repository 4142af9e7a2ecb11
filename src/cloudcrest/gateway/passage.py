"""The short way of a stream: chunks in which nothing is to be read go to the client as they came, in one call each."""

from collections.abc import Callable

from cloudcrest.gateway.counting import Kept
from cloudcrest.gateway.sse import StreamScanner


def passage(scanner: StreamScanner, kept: Kept, write: Callable[[bytes], None]) -> Callable[[bytes], bool]:
    """Takes a whole chunk with its framing. False: it did nothing with it, and the scanner is to be fed.

    What it writes, it counts for the scanner and keeps. It takes chunks of whole events, each a JSON object, none of
    which the scanner would look into. A quotation mark inside text is escaped, so text is never taken for a field.
    """
    keep, max_bytes = kept.parts.append, kept.max_bytes

    def take(chunk: bytes) -> bool:
        if (
            scanner.partial
            or not chunk.endswith(b"}\n\n\r\n")
            or b'"usage"' in chunk
            or b'"error"' in chunk
            or b"[DONE]" in chunk
        ):
            return False
        scanner.events += chunk.count(b"\n\n")
        keep(chunk)
        kept.size_bytes += len(chunk)
        if kept.size_bytes > max_bytes:
            kept.said()
        write(chunk)
        return True

    return take
