"""Brings what members leave on their nodes into the region's object store: regularly, and whole at the end."""

import asyncio
from weakref import WeakValueDictionary

import structlog

from cloudcrest.compute.jobs.entry import Entry
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.output_room import OutputRoom
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import Output
from cloudcrest.compute.jobs.store import JobStore, KeptOutput, Manifest, folder, log_prefix
from cloudcrest.kernel.errors import CloudcrestError, NotFound, TooLarge, Unavailable
from cloudcrest.kernel.units import MIB, format_bytes

_READ_BYTES = 1 * MIB
_MOST_READS = 200
_LAST_TRIES = 4
_TRY_AGAIN_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class Collector:
    """Collects through `link` into `store`. `seen`: versions of output files, by member, when last looked at."""

    def __init__(self, link: RunnerLink, store: JobStore, settings: RunSettings) -> None:
        self._link = link
        self._store = store
        self._settings = settings
        self._seen: dict[str, dict[str, str]] = {}
        self._room = OutputRoom(settings.project_output_bytes, store.outputs_bytes)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def collect(self, entry: Entry, number: int, *, is_last: bool) -> None:
        """One member's output and files. While it runs, files that have just changed are left for the next time."""
        await self._collect_log(entry, number)
        # Members of a job share the list of what is kept.
        async with self._locks.setdefault(entry.id, asyncio.Lock()):
            await self._collect_outputs(entry, number, is_last=is_last)
        if is_last:
            self._seen.pop(entry.members[number].process_id, None)

    def measure_again(self) -> None:
        """Outputs were removed."""
        self._room.measure_again()

    async def _collect_log(self, entry: Entry, number: int) -> None:
        member = entry.members[number]
        prefix = log_prefix(entry.document.project_id, entry.id, entry.attempt, number)
        offset = await self._store.log_end(prefix)
        for _ in range(_MOST_READS):
            chunk = await self._link.log(member, offset, _READ_BYTES)
            if not chunk.data:
                return
            offset = await self._store.append_log(prefix, chunk.offset, chunk.data)

    async def _collect_outputs(self, entry: Entry, number: int, *, is_last: bool) -> None:
        member, project_id = entry.members[number], entry.document.project_id
        found = await self._link.outputs(member)
        before = self._seen.get(member.process_id, {})
        self._seen[member.process_id] = {each.name: each.version for each in found.files}
        steady = [each for each in found.files if is_last or before.get(each.name) == each.version]
        problem = ""
        if found.left_out:
            problem = f"{found.left_out} files were too many, too large or without a proper name"
        manifest = await self._store.manifest(project_id, entry.id)
        shared = len(entry.members) > 1
        for each in steady:
            name = f"{number}/{each.name}" if shared else each.name
            held = manifest.get(name)
            version = f"{entry.attempt}-{each.version}"
            if held is None or held.version != version:
                problem = await self._keep(entry, number, each, name, version, manifest) or problem
        if problem and problem != member.outputs_problem:
            _log.warning("outputs_left_out", job=entry.id, member=number, error=problem)
        member.outputs_problem = problem

    async def _keep(  # noqa: PLR0917 - all of one file
        self, entry: Entry, number: int, each: Output, name: str, version: str, manifest: Manifest
    ) -> str:
        """Why it is not kept, empty where it is."""
        project_id, held = entry.document.project_id, manifest.get(name)
        if problem := self._no_room(entry, each, name, manifest):
            return problem
        if not await self._room.take(project_id, each.size_bytes):
            most = format_bytes(self._room.most_bytes)
            return f"the outputs of this project's jobs in this region take {most}, its limit"
        kept: KeptOutput | None = None
        try:
            numbers = {int(other.key.rsplit("/", 1)[1]) for other in manifest.values()}
            key = f"{folder(project_id, entry.id)}/outputs/{max(numbers, default=0) + 1}"
            async with self._link.output(entry.members[number], each.name) as pieces:
                # One that has grown since is another version, and comes the next time.
                size = await self._store.keep_output(key, pieces, each.size_bytes)
            kept = manifest[name] = KeptOutput(key, size, version)
            await self._store.save_manifest(project_id, entry.id, manifest)
            entry.has_outputs = True
            if held is not None:
                await self._store.forget_output(held)
        except (NotFound, TooLarge) as error:
            return f"{each.name} changed or went away while it was read: {error.message}"
        else:
            return ""
        finally:
            replaced = 0 if kept is None or held is None else held.size_bytes
            added = (0 if kept is None else kept.size_bytes) - replaced
            await self._room.settle(project_id, each.size_bytes, added)

    def _no_room(self, entry: Entry, each: Output, name: str, manifest: Manifest) -> str:
        """Why the job itself may leave no such file; empty: it may."""
        members = max(entry.document.members, 1)
        most_files, most_bytes = self._settings.output_files_most, self._settings.output_bytes_most
        if name not in manifest and len(manifest) >= most_files * members:
            return f"a member leaves up to {most_files} files"
        if each.size_bytes > self._settings.output_file_bytes_most:
            return f"an output file has up to {format_bytes(self._settings.output_file_bytes_most)}"
        # Of files that are gone on the node by now, too: else a job that writes ever other ones would fill the store.
        others = sum(kept.size_bytes for kept_name, kept in manifest.items() if kept_name != name)
        if others + each.size_bytes > most_bytes * members:
            return f"a member leaves up to {format_bytes(most_bytes)}"
        return ""

    async def try_collect(self, entry: Entry, number: int, *, is_last: bool) -> None:
        """Collects as far as it can be. At the end it is tried a few times: what is not there then is gone."""
        for _ in range(_LAST_TRIES if is_last else 1):
            try:
                await self.collect(entry, number, is_last=is_last)
            except Unavailable as error:
                _log.warning("runner_gone_before_collected", job=entry.id, member=number, error=error.message)
                return
            except (CloudcrestError, OSError) as error:
                _log.warning("job_not_collected", job=entry.id, member=number, error=str(error))
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            else:
                return
