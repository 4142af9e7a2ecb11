"""Forms read in pieces, whatever the pieces are, and what is refused of them."""

from collections.abc import AsyncIterator

import pytest

from cloudcrest.content.multipart import MAX_FIELD_BYTES, Upload, clean_filename, read_upload
from cloudcrest.kernel.errors import InvalidInput

pytestmark = pytest.mark.anyio
TYPE = "multipart/form-data; boundary=xx"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--xx\r\ncontent-disposition: %b\r\n\r\n%b\r\n" % (disposition.encode(), value)


async def read(body: bytes, piece_bytes: int = 7, content_type: str = TYPE) -> tuple[Upload, bytes]:
    written = bytearray()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), piece_bytes):
            yield body[at : at + piece_bytes]

    async def write(data: bytes) -> None:
        written.extend(data)

    return await read_upload(pieces(), content_type, write), bytes(written)


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 64, 100_000])
async def test_a_form_in_any_order_and_any_pieces(piece_bytes: int) -> None:
    content = b"line\r\n--x\r\n--xxy\r\n\0\xff" * 20
    for order in (1, -1):
        parts = [part("purpose", b"batch"), part("file", content, "a.jsonl")][::order]
        upload, written = await read(b"".join(parts) + b"--xx--\r\n", piece_bytes)
        assert (upload.fields, upload.filename, written) == ({"purpose": "batch"}, "a.jsonl", content)


async def test_an_empty_file_and_no_file() -> None:
    upload, written = await read(part("file", b"", "e") + b"--xx--\r\n")
    assert (upload.filename, written) == ("e", b"")
    upload, _ = await read(part("purpose", b"batch") + b"--xx--\r\n")
    assert upload.filename is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (part("file", b"half", "a"), "ends before"),
        (b"no form at all", "form"),
        (part("file", b"1", "a") + part("file", b"2", "b") + b"--xx--\r\n", "one file"),
        (part("purpose", b"1") + part("purpose", b"2") + b"--xx--\r\n", "twice"),
        (part("purpose", b"1" * (MAX_FIELD_BYTES + 1)) + b"--xx--\r\n", "too long"),
        (part("a" * 5000, b"1") + b"--xx--\r\n", "too long"),
        (b"".join(part(f"f{number}", b"1") for number in range(17)) + b"--xx--\r\n", "too many fields"),
        (b"--xx\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(9)) + b"\r\n1\r\n--xx--\r\n", "header count"),
        (b"--xx\r\nx: 1\r\n\r\n1\r\n--xx--\r\n", "no name"),
    ],
)
async def test_broken_forms(body: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        await read(body)


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data"])
async def test_what_is_no_form(content_type: str) -> None:
    with pytest.raises(InvalidInput, match="multipart/form-data"):
        await read(b"{}", content_type=content_type)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.txt", "a.txt"), ("../../etc/passwd", "passwd"), ("C:\\x\\y.pdf", "y.pdf"), ("a\r\nb\0", "ab"), ("", "upload")],
)
async def test_filenames_are_names(given: str, kept: str) -> None:
    assert clean_filename(given) == kept
