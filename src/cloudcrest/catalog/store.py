"""The artifact store: weights on this machine, each artifact in a folder named for its content.

    <folder>/<key>/                 published: whole, verified, never changed again; its manifest says what is in it
    <folder>/.work/<key>/           being fetched; kept after a break so that the next try goes on from there
    <folder>/.locks/<key>.lock      one fetch at a time, across processes
    <folder>/.pins/<key>.json       the files and hashes that a hub listed for an artifact known by name alone

Fetching: each source in turn → each file's SHA-256 held against the artifact's → content checked → conversion → one
rename publishes it. A file that fails a check is removed and never published.
"""

import asyncio
import hashlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import msgspec

from cloudcrest.catalog import conversions
from cloudcrest.catalog.api import Artifact, ArtifactFile, ArtifactFormat, ModelDocument
from cloudcrest.catalog.artifact_key import artifact_key, choose_artifact
from cloudcrest.catalog.locks import file_lock
from cloudcrest.catalog.progress import Meter, OnProgress
from cloudcrest.catalog.published import Published
from cloudcrest.catalog.safety import UnsafeFile, check_content, check_name
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.catalog.sources import SOURCES
from cloudcrest.catalog.sources.base import DiskFull, FetchContext, FreeBytes, Source, SourceCreator, SourceFailed
from cloudcrest.catalog.sources.files import disk_errors
from cloudcrest.infra.files import free_bytes, write_atomic
from cloudcrest.kernel.clock import Clock, SystemClock
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound, SetupError, Unavailable
from cloudcrest.kernel.registry import Registry

MAX_SOURCES = 16


class ArtifactStore:
    """Weights by content. One instance or many, in one process or several, may work on the same folder."""

    def __init__(
        self,
        folder: Path,
        settings: CatalogSettings | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        sources: Registry[SourceCreator] = SOURCES,
        free_bytes: FreeBytes = free_bytes,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings or CatalogSettings()
        self._environ = os.environ if environ is None else environ
        self._sources = sources
        self._free_bytes = free_bytes
        self._clock = clock or SystemClock()

    def ready_path(self, model: ModelDocument, artifact_format: ArtifactFormat) -> Path | None:
        """The entry file, when the artifact is here and every file has its size; None when it has to be fetched."""
        artifact = self._pinned(choose_artifact(model, artifact_format))
        published = Published(self._folder / artifact_key(artifact))
        return published.entry(artifact.entry) if published.is_complete() else None

    async def fetch(
        self, model: ModelDocument, artifact_format: ArtifactFormat, on_progress: OnProgress = lambda _: None
    ) -> Path:
        """The entry file of the model's artifact in this format, fetched and verified if it is not here yet.

        A second caller waits for the first. `on_progress` is called on the event loop, at most twice a second.
        Raises `NotFound` (no such format), `Unavailable` (no source could give it: the message has each one's
        reason), `DiskFull`, `UnsafeFile`.
        """
        wanted = choose_artifact(model, artifact_format)
        meter = Meter(on_progress, self._clock)
        try:
            with disk_errors(self._folder):
                path = await asyncio.to_thread(self._unchanged_path, self._pinned(wanted))
                if path is None:
                    async with file_lock(self._lock_path(wanted), partial(meter.phase, "waiting")):
                        path = await self._fetch(model.id, wanted, meter)
        except CloudcrestError as error:
            meter.phase("failed", reason=str(error))
            raise
        meter.phase("ready")
        return path

    async def verify(self, model: ModelDocument, artifact_format: ArtifactFormat) -> None:
        """Hashes every file again. Raises `NotFound` (not here), `Unavailable` (which was corrupt, and is removed)."""
        artifact = self._pinned(choose_artifact(model, artifact_format))
        published = Published(self._folder / artifact_key(artifact))
        if not await asyncio.to_thread(published.exists):
            raise NotFound(f"the weights of '{model.id}' are not on this machine", hint="pull the model first")
        corrupt = await asyncio.to_thread(published.remove_corrupt)
        if corrupt:
            raise Unavailable(
                f"{', '.join(corrupt)} of '{model.id}' had become corrupt and is removed",
                code="artifact_corrupt",
                hint="pull the model again; look at the disk if it happens twice",
            )

    def _lock_path(self, wanted: Artifact) -> Path:
        return self._folder / ".locks" / f"{artifact_key(wanted)}.lock"

    def _unchanged_path(self, artifact: Artifact) -> Path | None:
        """The published entry; files that were touched since are hashed again, and go when they are corrupt."""
        published = Published(self._folder / artifact_key(artifact))
        if published.is_complete() and not published.remove_corrupt(only_touched=True):
            return published.entry(artifact.entry)
        return None

    async def _fetch(self, model_id: str, wanted: Artifact, meter: Meter) -> Path:
        """With the lock held."""
        async with self._context() as context:
            sources = _Sources(self._sources, context, wanted.sources[:MAX_SOURCES])
            artifact = self._pinned(wanted)
            if not artifact.files:
                artifact = await self._resolve(model_id, wanted, sources)
            sources.uris = artifact.sources[:MAX_SOURCES]
            path = await asyncio.to_thread(self._unchanged_path, artifact)
            if path is not None:
                return path
            for file in artifact.files:
                check_name(file.path)
            work = self._folder / ".work" / artifact_key(artifact)
            await asyncio.to_thread(partial((work / "files").mkdir, parents=True, exist_ok=True))
            await self._bring_all(model_id, artifact, sources, work, meter)
            return await self._publish(artifact, work, meter)

    async def _bring_all(
        self, model_id: str, artifact: Artifact, sources: "_Sources", work: Path, meter: Meter
    ) -> None:
        """Every file into `work/files`, verified, each source giving what those before it could not."""
        failures: list[str] = []
        for uri in sources.uris:
            missing = _missing(artifact, work)
            if not missing:
                return
            sizes = [file.size_bytes for file in missing]
            total_bytes = sum(size for size in sizes if size is not None) if None not in sizes else None
            sources.context.require_space(self._folder, _still_needed(work, total_bytes))
            meter.begin(uri, total_bytes)
            try:
                await self._bring(uri, missing, sources, work, meter)
            except DiskFull:
                raise
            except (SourceFailed, InvalidInput, SetupError) as error:
                failures.append(f"{uri}: {error}")
        if _missing(artifact, work):
            raise _no_source(model_id, failures)

    async def _bring(self, uri: str, files: list[ArtifactFile], sources: "_Sources", work: Path, meter: Meter) -> None:
        source, location = sources.open(uri)
        scratch = work / "from" / _short(uri)
        await asyncio.to_thread(partial(scratch.mkdir, parents=True, exist_ok=True))
        by_path = {file.path: file for file in files}
        # Each file is accepted as it comes: what a source gave before it broke off is asked of no other.
        async with aclosing(source.fetch(location, files, scratch, meter)) as fetched:
            async for path, digest in fetched:
                await asyncio.to_thread(_accept, by_path[path], digest, scratch / path, work / "files" / path)
        meter.phase("verifying")
        await asyncio.to_thread(partial(shutil.rmtree, scratch, ignore_errors=True))

    async def _publish(self, artifact: Artifact, work: Path, meter: Meter) -> Path:
        ready = work / "files"
        if artifact.convert is not None:
            meter.phase("converting")
            check_name(artifact.entry)
            ready = work / "converted"
            await asyncio.to_thread(partial(shutil.rmtree, ready, ignore_errors=True))
            await asyncio.to_thread(partial((ready / artifact.entry).parent.mkdir, parents=True))
            await conversions.convert(artifact.convert, work / "files", ready / artifact.entry)
            await asyncio.to_thread(check_content, artifact.entry, ready / artifact.entry)
        hashes = {} if artifact.convert else {file.path: file.sha256 for file in artifact.files}
        published = Published(self._folder / artifact_key(artifact))
        await asyncio.to_thread(published.publish, ready, hashes)
        await asyncio.to_thread(partial(shutil.rmtree, work, ignore_errors=True))
        return published.entry(artifact.entry)

    def _pinned(self, artifact: Artifact) -> Artifact:
        """The artifact with the files that a hub listed when it was first fetched, if it lists none itself."""
        if artifact.files:
            return artifact
        path = self._folder / ".pins" / f"{artifact_key(artifact)}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Artifact)
        except (FileNotFoundError, ValueError):
            return artifact

    async def _resolve(self, model_id: str, artifact: Artifact, sources: "_Sources") -> Artifact:
        """Asks the sources for files and hashes, and pins the first answer: the next fetch gets the same bytes."""
        failures: list[str] = []
        for uri in sources.uris:
            try:
                source, location = sources.open(uri)
                listing = await source.resolve(location, artifact)
            except (SourceFailed, InvalidInput, SetupError) as error:
                failures.append(f"{uri}: {error}")
                continue
            fixed = f"{uri.partition(':')[0]}:{listing.location}"
            others = tuple(other for other in artifact.sources if other != uri)
            pinned = msgspec.structs.replace(artifact, files=listing.files, sources=(fixed, *others))
            path = self._folder / ".pins" / f"{artifact_key(artifact)}.json"
            await asyncio.to_thread(partial(path.parent.mkdir, parents=True, exist_ok=True))
            await asyncio.to_thread(write_atomic, path, msgspec.json.encode(pinned))
            return pinned
        raise _no_source(model_id, failures)

    @asynccontextmanager
    async def _context(self) -> AsyncIterator[FetchContext]:
        timeout = httpx2.Timeout(self._settings.read_timeout_seconds, connect=self._settings.connect_timeout_seconds)
        verify = await asyncio.to_thread(_tls, self._environ)
        async with httpx2.AsyncClient(timeout=timeout, verify=verify, max_redirects=8) as client:
            yield FetchContext(client, self._settings, self._environ, self._free_bytes)


class _Sources:
    """An artifact's sources, opened when their turn comes (an S3 client costs a second)."""

    def __init__(self, registry: Registry[SourceCreator], context: FetchContext, uris: tuple[str, ...]) -> None:
        self._registry = registry
        self.context = context
        self.uris = uris

    def open(self, uri: str) -> tuple[Source, str]:
        """The source of a URI and the location in it. Raises `SourceFailed` for a scheme that there is none of."""
        scheme, _, location = uri.partition(":")
        try:
            creator = self._registry[scheme]
        except NotFound as error:
            raise SourceFailed(str(error)) from None
        return creator(self.context), location


def _missing(artifact: Artifact, work: Path) -> list[ArtifactFile]:
    return [file for file in artifact.files if not (work / "files" / file.path).is_file()]


def _still_needed(work: Path, total_bytes: int | None) -> int:
    """How much more the disk must take: what is to come, less what a broken fetch left."""
    kept_bytes = sum(path.stat().st_size for path in (work / "from").rglob("*") if path.is_file())
    return max(0, (total_bytes or 0) - kept_bytes)


def _no_source(model_id: str, failures: list[str]) -> Unavailable:
    reasons = "; ".join(failures) if failures else "it lists no source"
    return Unavailable(
        f"no source could give the weights of '{model_id}': {reasons}",
        code="no_source",
        hint="check the network, or add a source that this machine can reach (file:, s3:, HF_ENDPOINT, PIP_INDEX_URL)",
    )


def _short(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    """The certificate bundle that pip and others are told of, else the system's."""
    for variable in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        bundle = environ.get(variable)
        if bundle and Path(bundle).is_file():
            return ssl.create_default_context(cafile=bundle)
    return True


def _accept(file: ArtifactFile, digest: str, path: Path, target: Path) -> None:
    """Moves a fetched file to its place when it is what it should be; else removes it and raises `SourceFailed`."""
    try:
        if digest != file.sha256.lower():
            raise SourceFailed(
                f"'{file.path}' came with SHA-256 {digest[:12]}…, not {file.sha256[:12]}… as it must; it is removed"
            )
        check_content(file.path, path)
    except (SourceFailed, UnsafeFile):
        path.unlink(missing_ok=True)
        raise
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
