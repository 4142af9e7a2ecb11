"""The text of a PDF from standard input, to standard output: `python -I -m cloudcrest.content.pdf_reader MOST_BYTES`.

A process of its own, since a PDF is a program of a stranger's: it may be made to take all the time and memory there is.
Ends with 0, with `UNREADABLE` and the reason in words, or as its limits have it.
"""

import io
import resource
import sys

UNREADABLE = 3
CPU_SECONDS = 20
MEMORY_BYTES = 1024 * 1024 * 1024
MAX_PAGES = 2_000


class Unreadable(Exception):
    """A PDF that no text can be had of; its words are for the caller."""


def main(most_bytes: int) -> int:
    """Reads, and writes as much as is allowed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        text = text_of(sys.stdin.buffer.read(), most_bytes)
    except Unreadable as error:
        sys.stderr.write(str(error))
        return UNREADABLE
    sys.stdout.buffer.write(text)
    return 0


def text_of(content: bytes, most_bytes: int) -> bytes:
    """The pages' text in UTF-8, an empty line between two. Raises `Unreadable`."""
    import logging

    import pypdf

    logging.disable()  # what it says of a stranger's file is nobody's news
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted")
        if len(reader.pages) > MAX_PAGES:
            raise Unreadable(f"has more than {MAX_PAGES} pages")
        pages: list[bytes] = []
        left_bytes = most_bytes
        for page in reader.pages:
            pages.append(page.extract_text().strip().encode("utf-8", "replace"))
            left_bytes -= len(pages[-1]) + 2
            if left_bytes < 0:
                raise Unreadable(f"has more than {most_bytes} bytes of text")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # whatever a broken file makes of a parser
        raise Unreadable("cannot be read as a PDF") from error
    text = b"\n\n".join(page for page in pages if page).replace(b"\0", b"")
    if not text:
        raise Unreadable("has no text in it (a scan?)")
    return text


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
