"""What an input refers to in place of saying it: items that the project has kept, and files."""

from collections.abc import Sequence

import msgspec

from cloudcrest.content.pdf import PdfTexts, is_pdf
from cloudcrest.content.repository import conversations as conversation_repository
from cloudcrest.content.repository import responses as repository
from cloudcrest.content.responses.conversation import is_id
from cloudcrest.content.responses.fields import InputFile, Item
from cloudcrest.content.responses.files import (
    MAX_FILES,
    MAX_FILES_BYTES,
    check_file,
    files_in,
    sent_bytes,
    text_of,
    too_large,
)
from cloudcrest.content.responses.request import said_before
from cloudcrest.content.service.files import Files
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, NotFound
from cloudcrest.kernel.units import MIB, format_bytes

MAX_REFERENCES = 100
MAX_REFERRED_BYTES = 16 * MIB
"""Of all items that a request refers to, each as often as it does: a reference is short, what it stands for is not."""


class Referred:
    """Looks up what inputs of a project's responses refer to."""

    def __init__(self, database: Database, files: Files, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._clock = clock
        self._pdfs = PdfTexts()

    async def items(self, project_id: str, references: Sequence[tuple[str, str]]) -> dict[str, Item]:
        """Items by their id. `references`: each id, and where it stands. Raises `NotFound`, `InvalidInput`."""
        if len(references) > MAX_REFERENCES:
            raise InvalidInput(f"up to {MAX_REFERENCES} items are referred to at once", param="input")
        found: dict[str, Item] = {}
        sizes: dict[str, int] = {}
        turn = _Turn()
        left_bytes = MAX_REFERRED_BYTES
        for item_id, param in references:
            if item_id not in found:
                document = await self._document(project_id, item_id, turn) if is_id(item_id) else None
                if document is None:
                    raise NotFound(
                        f"there is no item '{item_id[:128]}' in this project's responses and conversations",
                        param=param,
                        code="item_not_found",
                        hint="responses are kept where 'store' is not false; else send the item itself",
                    )
                [found[item_id]] = said_before([document], param)
                sizes[item_id] = len(msgspec.json.encode(document))
            left_bytes -= sizes[item_id]
            if left_bytes < 0:
                raise InvalidInput(
                    f"what a request refers to has at most {format_bytes(MAX_REFERRED_BYTES)} together",
                    param=param,
                    code="items_too_large",
                )
        return found

    async def put_in_files(self, project_id: str, items: Sequence[Item]) -> None:
        """Puts the text of each file in its place. Raises `InvalidInput`, `NotFound`."""
        left_bytes = MAX_FILES_BYTES
        for count, (path, parts, place, part) in enumerate(files_in(items, "input"), 1):
            check_file(part, path)
            if count > MAX_FILES:
                raise InvalidInput(f"a request has at most {MAX_FILES} files", param=path)
            param, filename, content = await self._read(project_id, part, path, left_bytes)
            if len(content) > left_bytes:
                raise too_large(param)
            read_bytes = len(content)
            if is_pdf(content):
                content = await self._pdfs.text(content, filename, param, left_bytes)
            left_bytes -= max(read_bytes, len(content))
            parts[place] = text_of(content, filename, param)

    async def _read(self, project_id: str, part: InputFile, path: str, most_bytes: int) -> tuple[str, str, bytes]:
        """Where a file is named, its name, and what is in it."""
        if part.file_data is not None:
            param = f"{path}.file_data"
            return param, part.filename or "file", sent_bytes(part.file_data, path)
        param, file_id = f"{path}.file_id", part.file_id or ""
        missing = NotFound(f"there is no file '{file_id[:128]}'", param=param, code="file_not_found")
        if not is_id(file_id):
            raise missing
        try:
            file = await self._files.find(project_id, file_id)
            if file.size_bytes > most_bytes:
                raise too_large(param)
            pieces = [piece async for piece in self._files.content(file)]
        except NotFound:  # or it is deleted just now
            raise missing from None
        return param, part.filename or file.filename, b"".join(pieces)

    async def _document(self, project_id: str, item_id: str, turn: "_Turn") -> dict[str, object] | None:
        """`turn`: what was read last; most often several items of one response are asked for."""
        now = self._clock.now()
        async with self._database.transaction() as session:
            kept = await conversation_repository.item_of_project(session, project_id, item_id, now)
            if kept is not None:
                return dict(msgspec.json.decode(kept))
            response_id = await repository.with_item(session, project_id, item_id, now)
            if response_id is None:
                return None
            if response_id != turn.response_id:
                response = await repository.find(session, project_id, response_id, now)
                if response is None:
                    return None
                documents = [*msgspec.json.decode(response.items), *msgspec.json.decode(response.document)["output"]]
                turn.response_id = response_id
                turn.documents = {document["id"]: document for document in documents}
        return turn.documents.get(item_id)


class _Turn(msgspec.Struct):
    """The items of a response, by their ids."""

    response_id: str = ""
    documents: dict[str, dict[str, object]] = {}
