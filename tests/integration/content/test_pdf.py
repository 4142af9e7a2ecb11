"""The text of PDFs, taken out by real processes: what is read, what is said of those that cannot be."""

import io

import pypdf
import pytest

from cloudcrest.content.pdf import PdfTexts, is_pdf
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import MIB
from tests.support.pdfs import pdf, pdf_of

pytestmark = pytest.mark.anyio


async def read(content: bytes, most_bytes: int = MIB) -> str:
    assert is_pdf(content)
    return (await PdfTexts().text(content, "a.pdf", "input[0]", most_bytes)).decode()


async def test_the_text_of_its_pages_is_read() -> None:
    assert await read(pdf(["The word is heliotrope.", "", "Page three."])) == "The word is heliotrope.\n\nPage three."


def encrypted() -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(["secret"])))
    writer.encrypt("a password", algorithm="RC4-128")
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"%PDF-1.4\n\xe2\xe3", "cannot be read as a PDF"),
        (pdf(["", ""]), "has no text in it"),
        (encrypted(), "is encrypted"),
        (pdf(["word " * 300_000]), "has more than"),
    ],
    ids=["broken", "a scan", "encrypted", "too long"],
)
async def test_it_is_said_why_one_cannot_be_read(content: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        await read(content)
    assert (refused.value.param, refused.value.code) == ("input[0]", "unsupported_file")


async def test_one_that_is_made_to_take_all_memory_ends_alone() -> None:
    with pytest.raises(InvalidInput, match=r"cannot be read|too much time or memory") as refused:
        await read(pdf_of([bytes(100 * MIB)]))
    assert refused.value.code == "unsupported_file"
