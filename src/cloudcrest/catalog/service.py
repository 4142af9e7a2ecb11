"""The rules of the catalog: which models there are, who may change them, which region is to hold which."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog import repository
from cloudcrest.catalog.api import MODEL_PULL_KIND, Artifact, ModelDocument, ModelPullDocument, PullProgress
from cloudcrest.catalog.conversions import CONVERSIONS
from cloudcrest.catalog.records import Model, ModelPull, StoredModel
from cloudcrest.catalog.repository import ModelFilter
from cloudcrest.catalog.safety import UnsafeFile, check_name
from cloudcrest.catalog.sources import SOURCES
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.registry import close_matches
from cloudcrest.regions.api import Regions

MAX_REASON_CHARACTERS = 1_000
_BEGUN = PullProgress(phase="waiting")


class CatalogService:
    """Models and pulls. Implements `catalog.api.Models` and `catalog.api.ModelPulls`."""

    def __init__(self, *, clock: Clock, new_id: NewId, regions: Regions) -> None:
        self._clock = clock
        self._new_id = new_id
        self._regions = regions

    async def find_document(self, session: AsyncSession, model_id: str) -> ModelDocument:
        """What a region needs to run the model. Raises `NotFound` naming close matches."""
        return (await self.get(session, model_id)).model.document()

    async def get(self, session: AsyncSession, model_id: str) -> StoredModel:
        """One model. Raises `NotFound` naming close matches."""
        stored = await repository.find(session, model_id)
        if stored is None:
            raise await self._unknown(session, model_id)
        return stored

    async def page(self, session: AsyncSession, request: PageRequest, wanted: ModelFilter) -> list[StoredModel]:
        """The models of a page by id, with one more than the page when there are more."""
        return await repository.page(session, request, wanted)

    async def create(self, session: AsyncSession, model: Model) -> StoredModel:
        """Adds an operator's own model. Raises `Conflict` where the id is taken, `InvalidInput` for a wrong part."""
        if await repository.find(session, model.id) is not None:
            raise Conflict(f"there is a model '{model.id}' already", hint="choose another id, or change that one")
        return await self._save(session, model)

    async def change(self, session: AsyncSession, model: Model) -> StoredModel:
        """Writes a model over the one of its id, which is an operator's own from now on. Raises as `create` does."""
        stored = await self._save(session, model)
        # Regions that hold it follow the change: the same pull, of what the model is now.
        for pull in await repository.pulls_of(session, model.id):
            await self._publish(session, pull, model.document())
        return stored

    async def delete(self, session: AsyncSession, model_id: str) -> None:
        """Deletes a model and its pulls. Running deployments keep it. Raises `Conflict` while others come from it."""
        await self.get(session, model_id)
        others = await repository.descendants(session, model_id)
        if others:
            raise Conflict(
                f"'{model_id}' is in the lineage of {', '.join(others[:5])}", hint="delete or change those first"
            )
        for pull in await repository.pulls_of(session, model_id):
            await self._withdraw(session, pull)
        await repository.mark_deleted(session, model_id, self._clock.now())

    async def pull(self, session: AsyncSession, model_id: str, region: str) -> tuple[ModelPull, bool]:
        """Has a region hold a model; answers the pull and whether it is new.

        A pull under way is answered as it is; one that failed or is done begins again, under a new id.
        """
        model = (await self.get(session, model_id)).model
        if not await self._regions.exists(session, region):
            known = await self._regions.list_ids(session)
            raise InvalidInput(f"there is no region '{region}'", param="region", hint=f"known: {', '.join(known)}")
        if not model.artifacts:
            raise Conflict(f"the model '{model_id}' lists no weights", hint="it is deployed with the engine 'upstream'")
        present = await repository.find_pull_of(session, model_id, region)
        if present is not None:
            if present.progress.phase not in ("ready", "failed"):
                return present, False
            await self._withdraw(session, present)
        now = self._clock.now()
        pull = ModelPull(
            id=self._new_id("pull"), model_id=model_id, region=region, created_at=now, updated_at=now, progress=_BEGUN
        )
        if not await repository.add_pull(session, pull):
            raise Conflict(f"'{model_id}' is being pulled to '{region}' already")
        await self._publish(session, pull, model.document())
        return pull, True

    async def get_pull(self, session: AsyncSession, pull_id: str) -> ModelPull:
        """One pull. Raises `NotFound`."""
        pull = await repository.find_pull(session, pull_id)
        if pull is None:
            raise NotFound(f"there is no pull '{pull_id}'")
        return pull

    async def page_pulls(
        self, session: AsyncSession, request: PageRequest, *, model_id: str | None, region: str | None
    ) -> list[ModelPull]:
        """The pulls of a page, newest first, with one more than the page when there are more."""
        return await repository.page_pulls(session, request, model_id=model_id, region=region)

    async def cancel_pull(self, session: AsyncSession, pull_id: str) -> None:
        """Withdraws a pull. What the region has already fetched stays there. Raises `NotFound`."""
        await self._withdraw(session, await self.get_pull(session, pull_id))

    async def record_pull_progress(
        self, session: AsyncSession, pull_id: str, progress: PullProgress, *, region: str
    ) -> None:
        """Notes how far a pull is. Pulls that are gone, or are another region's, are passed over."""
        bounded = msgspec.structs.replace(
            progress,
            reason=progress.reason and progress.reason[:MAX_REASON_CHARACTERS],
            source=progress.source and progress.source[:MAX_REASON_CHARACTERS],
        )
        await repository.set_pull_progress(session, pull_id, region, bounded, self._clock.now())

    async def _save(self, session: AsyncSession, model: Model) -> StoredModel:
        check_model(model)
        known = set(await repository.ids(session))
        for field in ("base_model", "adapter_of", "quantized_from"):
            parent = getattr(model, field)
            if parent == model.id:
                raise InvalidInput("a model does not come from itself", param=field)
            if parent is not None and parent not in known:
                raise InvalidInput(f"there is no model '{parent}'", param=field)
        await repository.save(session, model, origin="operator", now=self._clock.now())
        return await self.get(session, model.id)

    async def _withdraw(self, session: AsyncSession, pull: ModelPull) -> None:
        await repository.remove_pull(session, pull.id)
        await publish(session, MODEL_PULL_KIND, pull.id, None, region=pull.region)

    async def _publish(self, session: AsyncSession, pull: ModelPull, document: ModelDocument) -> None:
        body = ModelPullDocument(id=pull.id, region=pull.region, model=document)
        await publish(session, MODEL_PULL_KIND, pull.id, body, region=pull.region)

    async def _unknown(self, session: AsyncSession, model_id: str) -> NotFound:
        matches = close_matches(model_id, await repository.ids(session))
        hint = f"did you mean {', '.join(matches)}?" if matches else "GET /api/v1/models lists them"
        return NotFound(f"there is no model '{model_id}'", code="model_not_found", hint=hint)


def check_model(model: Model) -> None:
    """Raises `InvalidInput` with the path of what no region could fetch or would refuse."""
    for number, artifact in enumerate(model.artifacts):
        _check_artifact(f"artifacts.{number}", artifact)


def _check_artifact(path: str, artifact: Artifact) -> None:
    if artifact.convert is not None and artifact.convert not in CONVERSIONS:
        known = ", ".join(sorted(CONVERSIONS))
        raise InvalidInput(f"there is no conversion '{artifact.convert}'", param=f"{path}.convert", hint=known)
    names = [file.path for file in artifact.files]
    for name in {*names, artifact.entry}:
        try:
            check_name(name)
        except UnsafeFile as error:
            raise InvalidInput(error.message, code=error.code, param=f"{path}.files", hint=error.hint) from None
    if len(set(names)) != len(names):
        raise InvalidInput("a file is listed twice", param=f"{path}.files")
    if names and artifact.convert is None and artifact.entry not in names:
        raise InvalidInput(f"the entry '{artifact.entry}' is not among the files", param=f"{path}.entry")
    if not names and artifact.convert is not None:
        raise InvalidInput("a conversion needs its files listed with their hashes", param=f"{path}.files")
    for number, source in enumerate(artifact.sources):
        if source.partition(":")[0] not in SOURCES.names():
            known = ", ".join(f"{name}:" for name in SOURCES.names())
            raise InvalidInput(
                f"'{source[:80]}' is no source", param=f"{path}.sources.{number}", hint=f"known: {known}"
            )
