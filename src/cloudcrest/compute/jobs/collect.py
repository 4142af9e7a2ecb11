"""Brings what members leave on their nodes into the region's object store: regularly, and whole at the end."""

import asyncio
from weakref import WeakValueDictionary

import structlog

from cloudcrest.compute.jobs.entry import Entry
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import Output
from cloudcrest.compute.jobs.store import JobStore, KeptOutput, Manifest, folder, log_prefix
from cloudcrest.kernel.errors import CloudcrestError, NotFound, TooLarge, Unavailable
from cloudcrest.kernel.units import MIB

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
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def collect(self, entry: Entry, number: int, *, is_last: bool) -> None:
        """One member's output and files. While it runs, files that have just changed are left for the next time."""
        await self._collect_log(entry, number)
        # Members of a job share the list of what is kept.
        async with self._locks.setdefault(entry.id, asyncio.Lock()):
            await self._collect_outputs(entry, number, is_last=is_last)
        if is_last:
            self._seen.pop(entry.members[number].process_id, None)

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
        if found.left_out and is_last:
            _log.warning("outputs_left_out", job=entry.id, count=found.left_out)
        manifest = await self._store.manifest(project_id, entry.id)
        shared = len(entry.members) > 1
        for each in steady:
            name = f"{number}/{each.name}" if shared else each.name
            held = manifest.get(name)
            version = f"{entry.attempt}-{each.version}"
            if held is None or held.version != version:
                await self._keep(entry, number, each, name, version, manifest)

    async def _keep(  # noqa: PLR0917 - all of one file
        self, entry: Entry, number: int, each: Output, name: str, version: str, manifest: Manifest
    ) -> None:
        project_id = entry.document.project_id
        held = manifest.get(name)
        members = max(entry.document.members, 1)
        if held is None and len(manifest) >= self._settings.output_files_most * members:
            return
        # Of files that are gone on the node by now, too: else a job that writes ever other ones would fill the store.
        others = sum(kept.size_bytes for kept_name, kept in manifest.items() if kept_name != name)
        room_bytes = self._settings.output_bytes_most * members - others
        most_bytes = min(self._settings.output_file_bytes_most, room_bytes)
        if each.size_bytes > most_bytes:
            _log.warning("output_not_kept", job=entry.id, error="the job's outputs are full")
            return
        numbers = {int(kept.key.rsplit("/", 1)[1]) for kept in manifest.values()}
        key = f"{folder(project_id, entry.id)}/outputs/{max(numbers, default=0) + 1}"
        try:
            async with self._link.output(entry.members[number], each.name) as pieces:
                size = await self._store.keep_output(key, pieces, most_bytes)
        except (NotFound, TooLarge) as error:
            _log.warning("output_not_kept", job=entry.id, error=error.message)
            return
        manifest[name] = KeptOutput(key, size, version)
        await self._store.save_manifest(project_id, entry.id, manifest)
        entry.has_outputs = True
        if held is not None:
            await self._store.forget_output(held)

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
