"""What jobs leave, in the region's object store, so that it outlives their nodes.

    jobs/<project>/<job>/report                            how it ended
    jobs/<project>/<job>/logs/<attempt>/<member>/<offset>  output in segments, as the runner keeps it
    jobs/<project>/<job>/outputs/manifest                  names, sizes, keys of output files
    jobs/<project>/<job>/outputs/<number>                  their bytes

Names that tenants give are never keys.
"""

import contextlib
from collections.abc import AsyncIterator

import msgspec

from cloudcrest.compute.jobs.api import JobReport
from cloudcrest.compute.jobs.runner.log import MAX_SEGMENTS, SEGMENT_BYTES, find_segment, segment_name
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.errors import InvalidInput, NotFound


class KeptOutput(msgspec.Struct, frozen=True):
    """An output file. `version`: of the node's file that it is a copy of."""

    key: str
    size_bytes: int
    version: str


Manifest = dict[str, KeptOutput]


class KeptReport(msgspec.Struct, frozen=True):
    """How a job ended, and when, in Unix seconds."""

    report: JobReport
    ended_at: float


class JobStore:
    """What jobs leave. A project sees its own alone: its id is in every key."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def append_log(self, prefix: str, offset: int, data: bytes) -> int:
        """Adds output that begins at `offset`; returns the offset after it. What is there already is left out."""
        starts = await self._starts(prefix)
        while data:
            start = starts[-1] if starts else None
            held = b"" if start is None else await self._objects.get(f"{prefix}/{segment_name(start)}")
            end = 0 if start is None else start + len(held)
            if offset < end:
                data = data[end - offset :]
                offset = end
                continue
            if start is None or end != offset or len(held) >= SEGMENT_BYTES:
                start, held = offset, b""
                starts.append(start)
            piece = data[: SEGMENT_BYTES - len(held)]
            await self._objects.put(f"{prefix}/{segment_name(start)}", held + piece)
            offset += len(piece)
            data = data[len(piece) :]
        while len(starts) > MAX_SEGMENTS:
            await self._objects.delete(f"{prefix}/{segment_name(starts.pop(0))}")
        return offset

    async def log_end(self, prefix: str) -> int:
        """The offset after all output that is kept."""
        starts = await self._starts(prefix)
        return starts[-1] + len(await self._objects.get(f"{prefix}/{segment_name(starts[-1])}")) if starts else 0

    async def read_log(self, prefix: str, offset: int, most_bytes: int) -> tuple[int, bytes]:
        """Output from `offset`, or from the first after it that is kept: where that is, and its bytes."""
        starts = await self._starts(prefix)
        start = find_segment(starts, offset)
        while start is not None:
            begin = max(offset, start)
            key = f"{prefix}/{segment_name(start)}"
            with contextlib.suppress(NotFound):  # it was the oldest, and went just now
                if data := await self._objects.part(key, begin - start, begin - start + most_bytes):
                    return begin, data
            # Between this one and the next is what was gone before it could be collected.
            start = next((later for later in starts if later > begin), None)
        return offset if starts else 0, b""

    async def manifest(self, project_id: str, job_id: str) -> Manifest:
        """The output files that are kept, by name."""
        try:
            found = await self._objects.get(f"{folder(project_id, job_id)}/outputs/manifest")
        except NotFound:
            return {}
        return msgspec.json.decode(found, type=Manifest)

    async def save_manifest(self, project_id: str, job_id: str, manifest: Manifest) -> None:
        """Replaces the list of output files."""
        await self._objects.put(f"{folder(project_id, job_id)}/outputs/manifest", msgspec.json.encode(manifest))

    async def keep_output(self, key: str, pieces: AsyncIterator[bytes], most_bytes: int) -> int:
        """Keeps an output file's bytes; returns how many. Raises `TooLarge`."""
        async with self._objects.writer(key, most_bytes) as writer:
            async for piece in pieces:
                await writer.write(piece)
        return writer.size_bytes

    async def outputs_bytes(self, project_id: str) -> int:
        """What the output files of all jobs of a project take."""
        return await self._objects.size_bytes(f"jobs/{project_id}", among=_is_output)

    async def forget_output(self, kept: KeptOutput) -> None:
        """Removes an output file's bytes."""
        await self._objects.delete(kept.key)

    def output(self, kept: KeptOutput) -> AsyncIterator[bytes]:
        """An output file's bytes."""
        return self._objects.pieces(kept.key)

    async def save_report(self, project_id: str, report: JobReport, ended_at: float) -> None:
        """Keeps how a job ended."""
        kept = msgspec.json.encode(KeptReport(report, ended_at))
        await self._objects.put(f"{folder(project_id, report.id)}/report", kept)

    async def report(self, project_id: str, job_id: str) -> JobReport:
        """How a job ended. Raises `NotFound`."""
        try:
            found = await self._objects.get(f"{folder(project_id, job_id)}/report")
        except InvalidInput:
            raise NotFound(f"there is no job '{job_id}'") from None
        return msgspec.json.decode(found, type=KeptReport).report

    def file(self, project_id: str, file_id: str) -> AsyncIterator[bytes]:
        """A file that the project has uploaded to this region, as content keeps it."""
        return self._objects.pieces(f"files/{project_id}/{file_id}")

    async def sweep(self, before: float) -> int:
        """Removes what jobs left that ended before; returns how many jobs that were."""
        removed = 0
        for key in await self._objects.keys("jobs"):
            if not key.endswith("/report") or key.count("/") != 3:
                continue
            kept = msgspec.json.decode(await self._objects.get(key), type=KeptReport)
            if kept.ended_at < before:
                _, project_id, job_id, _ = key.split("/")
                # Its report goes last: what is left half-way is swept the next time.
                for each in await self._objects.keys(folder(project_id, job_id)):
                    if each != key:
                        await self._objects.delete(each)
                await self._objects.delete(key)
                removed += 1
        return removed

    async def _starts(self, prefix: str) -> list[int]:
        keys = await self._objects.keys(prefix)
        return sorted(int(name) for key in keys if (name := key.rsplit("/", 1)[1]).isdigit())


def folder(project_id: str, job_id: str) -> str:
    """Under which everything of a job is."""
    return f"jobs/{project_id}/{job_id}"


def log_prefix(project_id: str, job_id: str, attempt: int, member: int) -> str:
    """Under which a member's output is."""
    return f"{folder(project_id, job_id)}/logs/{attempt}/{member}"


def _is_output(key: str) -> bool:
    return "/outputs/" in key and not key.endswith("/manifest")
