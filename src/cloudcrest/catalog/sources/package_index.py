"""Finding a wheel the way pip and uv would: the same environment, the simple repository API, local wheels first.

https://packaging.python.org/en/latest/specifications/simple-repository-api/ (JSON, and HTML where a mirror has only
that). Read from the environment: UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL, their extra indexes, PIP_FIND_LINKS,
UV_FIND_LINKS.
"""

import asyncio
import html.parser
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from cloudcrest.catalog.sources.base import FetchContext, SourceFailed
from cloudcrest.catalog.sources.download import get_json
from cloudcrest.catalog.sources.files import sha256_of

DEFAULT_INDEX = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class Wheel:
    """A wheel that can be had: from `url`, or already on this machine at `local_path`."""

    filename: str
    url: str = ""
    size_bytes: int | None = None
    sha256: str | None = None
    local_path: Path | None = None


class PackageIndex:
    """The indexes and folders that this machine's package tools use."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context

    async def find(self, name: str, version: str) -> Wheel:
        """The wheel of exactly this version, a pure one before one of a platform. Raises `SourceFailed`."""
        local = await asyncio.to_thread(self._find_local, name, version)
        if local is not None:
            return local
        failures = []
        for index in self._indexes():
            try:
                found = [wheel for wheel in await self._list(index, name) if _matches(wheel.filename, name, version)]
            except SourceFailed as error:
                failures.append(error.message)
                continue
            if found:
                return min(found, key=lambda wheel: (not wheel.filename.endswith("-none-any.whl"), wheel.filename))
            failures.append(f"{urlsplit(index).hostname} has no wheel {name}=={version}")
        raise SourceFailed("; ".join(failures))

    def _indexes(self) -> list[str]:
        environ = self._context.environ
        first = self._context.settings.package_index or next(
            (environ[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL") if environ.get(name)),
            DEFAULT_INDEX,
        )
        more = [environ.get(name, "") for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")]
        # uv allows `name=url`; the name is only for its lock file.
        urls = [word.partition("=")[2] if "=http" in word else word for word in " ".join([first, *more]).split()]
        return list(dict.fromkeys(url.rstrip("/") for url in urls if url.startswith(("http://", "https://"))))

    def _find_local(self, name: str, version: str) -> Wheel | None:
        for path in self._local_wheels():
            if _matches(path.name, name, version):
                return Wheel(path.name, size_bytes=path.stat().st_size, sha256=sha256_of(path), local_path=path)
        return None

    def _local_wheels(self) -> Iterator[Path]:
        for variable in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
            for word in self._context.environ.get(variable, "").replace(",", " ").split():
                folder = Path(unquote(urlsplit(word).path)) if word.startswith("file:") else Path(word)
                if "://" not in word.removeprefix("file://") and folder.is_dir():
                    yield from sorted(folder.glob("*.whl"))

    async def _list(self, index: str, name: str) -> list[Wheel]:
        page = f"{index}/{canonicalize_name(name)}/"
        answer = await get_json(self._context, page, {"accept": _ACCEPT})
        try:
            if "json" in answer.headers["content-type"]:
                return list(_from_json(page, json.loads(answer.content)))
            return list(_from_html(page, answer.text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceFailed(f"what {urlsplit(index).hostname} says of {name} is not understood") from error


def _matches(filename: str, name: str, version: str) -> bool:
    try:
        found_name, found_version, _, _ = parse_wheel_filename(filename)
        return found_name == canonicalize_name(name) and found_version == Version(version)
    except (InvalidWheelFilename, InvalidVersion):
        return False


def _from_json(page: str, document: dict[str, Any]) -> Iterator[Wheel]:
    for entry in document["files"]:
        size = entry.get("size")
        yield Wheel(
            filename=str(entry["filename"]),
            url=urljoin(page, str(entry["url"])),
            size_bytes=int(size) if size is not None else None,
            sha256=entry.get("hashes", {}).get("sha256"),
        )


class _Anchors(html.parser.HTMLParser):
    """The links of a page in the older HTML form."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag == "a" and link:
            self.links.append(link)


def _from_html(page: str, document: str) -> Iterator[Wheel]:
    anchors = _Anchors()
    anchors.feed(document)
    for link in anchors.links:
        url, fragment = urldefrag(urljoin(page, link))
        algorithm, _, digest = fragment.partition("=")
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        yield Wheel(filename=filename, url=url, sha256=digest if algorithm == "sha256" else None)
