"""The rules of deployments: who may run what where, and what the regions are told."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog.api import ModelDocument, ModelPulls, Models
from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.identity.api import Caller, Limits
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.registry import close_matches
from cloudcrest.regions.api import Regions
from cloudcrest.serving import repository
from cloudcrest.serving.api import (
    DEFAULT_WEIGHT,
    DEPLOYMENT_KIND,
    DeploymentState,
    EngineName,
    Placement,
    RegionStatus,
    ReplicaStatus,
)
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.records import Deployment, EngineOptions, ReportedReplica
from cloudcrest.serving.state import summarise

DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 4096
SECRET_OPTION = "api_key"  # noqa: S105 - the name of an option
_ENGINE_BY_FORMAT: dict[str, EngineName] = {"gguf": "llamacpp", "safetensors": "vllm"}
_ENGINE_BY_TASK: dict[str, EngineName] = {"speech": "piper", "transcription": "moonshine"}
"""Of weights in ONNX."""
MAX_DEPLOYMENTS_PER_NAME = 16
MAX_REPORTED_REPLICAS = 10_000
MAX_REASON_CHARACTERS = 1_000


class Wish(msgspec.Struct, frozen=True):
    """What an operator asks for; None: as it is, or for a new deployment the default.

    `placement`: those fields of a `Placement` that are to change.
    """

    replicas_min: int | None = None
    replicas_max: int | None = None
    context_tokens: int | None = None
    slots: int | None = None
    memory_bytes: int | None = None
    cpu_threads: int | None = None
    engine_options: EngineOptions | None = None
    limits: Limits | None = None
    weight: int | None = None
    placement: dict[str, Any] | None = None


class DeploymentStatus(msgspec.Struct, frozen=True):
    """A deployment and how it is."""

    deployment: Deployment
    state: DeploymentState
    reason: str | None
    replicas: tuple[ReportedReplica, ...]


class DeploymentService:
    """Deployments as desired state."""

    def __init__(
        self,
        *,
        models: Models,
        pulls: ModelPulls,
        regions: Regions,
        engines: Mapping[str, Engine],
        sealer: Sealer,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._models = models
        self._pulls = pulls
        self._regions = regions
        self._engines = engines
        self._sealer = sealer
        self._clock = clock
        self._new_id = new_id

    async def create(
        self,
        session: AsyncSession,
        *,
        model_id: str,
        name: str | None = None,
        engine: EngineName | None = None,
        region: str = "local",
        organization_id: str | None = None,
        wish: Wish = Wish(),  # noqa: B008 - frozen
    ) -> Deployment:
        """A new deployment. Raises `NotFound` (model), `InvalidInput` with the field's path, `Conflict` (name).

        Beside others of its name it needs a weight, and has their limits where it is given none.
        """
        model = await self._models.find_document(session, model_id)
        await self._require_region(session, region)
        options = wish.engine_options or {}
        now = self._clock.now()
        siblings = await repository.named(session, region, name or model.id)
        limits = wish.limits or (siblings[0].limits if siblings else Limits())
        replicas_min = 1 if wish.replicas_min is None else wish.replicas_min
        deployment = Deployment(
            id=self._new_id("dep"),
            name=name or model.id,
            model=model,
            engine=engine or default_engine(model, options),
            engine_options=self._sealed(options, {}),
            region=region,
            generation=1,
            replicas_min=replicas_min,
            replicas_max=max(replicas_min, 1) if wish.replicas_max is None else wish.replicas_max,
            context_tokens=wish.context_tokens or min(model.context_tokens, DEFAULT_CONTEXT_TOKENS),
            slots=wish.slots or DEFAULT_SLOTS,
            memory_bytes=wish.memory_bytes,
            cpu_threads=wish.cpu_threads,
            organization_id=organization_id,
            limits=limits,
            weight=DEFAULT_WEIGHT if wish.weight is None else wish.weight,
            placement=msgspec.structs.replace(Placement(), **(wish.placement or {})),
            created_at=now,
            updated_at=now,
        )
        self._validate(deployment)
        if siblings:
            _check_beside(deployment, siblings, has_weight=wish.weight is not None)
        await repository.add(session, deployment)
        await self._publish(session, deployment)
        await self._share_limits(session, limits, siblings)
        return deployment

    async def change(self, session: AsyncSession, deployment_id: str, wish: Wish) -> Deployment:
        """A changed deployment; what needs new replicas rolls them out. Raises `NotFound`, `InvalidInput`.

        Limits are the name's: its other deployments get them, too.
        """
        found = await self._find(session, deployment_id)
        siblings = await repository.named(session, found.region, found.name)
        before = await self._find(session, deployment_id, for_update=True)
        changes = {
            field: value
            for field in wish.__struct_fields__
            if field not in ("engine_options", "placement") and (value := getattr(wish, field)) is not None
        }
        if wish.engine_options is not None:
            changes["engine_options"] = self._sealed(wish.engine_options, before.engine_options)
        if wish.placement is not None:
            changes["placement"] = msgspec.structs.replace(before.placement, **wish.placement)
        if wish.replicas_max is None and wish.replicas_min is not None:
            changes["replicas_max"] = max(before.replicas_max, wish.replicas_min)
        after = msgspec.structs.replace(before, **changes)
        if _needs_new_replicas(before, after):
            after = msgspec.structs.replace(after, generation=before.generation + 1)
        if after == before:
            return before
        self._validate(after)
        after = msgspec.structs.replace(after, updated_at=self._clock.now())
        await repository.save(session, after)
        await self._publish(session, after)
        await self._share_limits(session, after.limits, [each for each in siblings if each.id != after.id])
        return after

    async def delete(self, session: AsyncSession, deployment_id: str) -> None:
        """Deletes a deployment; its region drains and stops its replicas. Raises `NotFound`."""
        deployment = await self._find(session, deployment_id, for_update=True)
        await repository.remove(session, deployment_id)
        await publish(session, DEPLOYMENT_KIND, deployment.id, None, region=deployment.region)

    async def get(self, session: AsyncSession, caller: Caller, deployment_id: str) -> DeploymentStatus:
        """One deployment. Raises `NotFound` where there is none that this caller may see."""
        deployment = await repository.find(session, deployment_id)
        if deployment is None or not _may_see(caller, deployment):
            raise NotFound(f"there is no deployment '{deployment_id}'")
        return (await self._with_status(session, [deployment]))[0]

    async def page(
        self, session: AsyncSession, caller: Caller, request: PageRequest, *, region: str | None = None
    ) -> list[DeploymentStatus]:
        """The deployments of a page that this caller may see, with one more than the page when there are more."""
        organizations = None if caller.is_operator else _organizations(caller)
        found = await repository.page(session, request, organizations=organizations, region=region)
        return await self._with_status(session, found)

    async def record_status(self, session: AsyncSession, region: str, status: RegionStatus) -> None:
        """Keeps a region's report. Raises `InvalidInput` for one that is too long."""
        if max(len(status.replicas), len(status.pulls)) > MAX_REPORTED_REPLICAS:
            raise InvalidInput(f"a report has at most {MAX_REPORTED_REPLICAS} replicas", param="replicas")
        # The same id twice would break the insert; the last one said counts.
        replicas = {replica.id: _trimmed(replica) for replica in status.replicas}
        await repository.replace_region_status(session, region, list(replicas.values()), self._clock.now())
        for pull_id, progress in sorted(status.pulls.items()):
            await self._pulls.record_pull_progress(session, pull_id, progress, region=region)

    async def _with_status(self, session: AsyncSession, deployments: Sequence[Deployment]) -> list[DeploymentStatus]:
        replicas = await repository.replicas_of(session, deployments)
        now = self._clock.now()
        statuses = []
        for deployment in deployments:
            reported = replicas[deployment.id]
            state, reason = summarise(deployment, reported, now)
            statuses.append(DeploymentStatus(deployment, state, reason, tuple(reported)))
        return statuses

    async def _find(self, session: AsyncSession, deployment_id: str, *, for_update: bool = False) -> Deployment:
        deployment = await repository.find(session, deployment_id, for_update=for_update)
        if deployment is None:
            raise NotFound(f"there is no deployment '{deployment_id}'")
        return deployment

    async def _require_region(self, session: AsyncSession, region: str) -> None:
        if await self._regions.exists(session, region):
            return
        known = await self._regions.list_ids(session)
        matches = close_matches(region, known) or known[:5]
        raise InvalidInput(
            f"there is no region '{region}'",
            param="region",
            hint=f"there is {', '.join(matches)}" if matches else "create the region first",
        )

    def _validate(self, deployment: Deployment) -> None:
        if deployment.replicas_max < max(deployment.replicas_min, 1):
            raise InvalidInput("must be at least replicas.min, and at least 1", param="replicas.max")
        if deployment.placement.accelerator_milli < WHOLE and deployment.placement.accelerators != 1:
            raise InvalidInput("a part can be had of one accelerator: ask for 1", param="placement.accelerators")
        self._engines[deployment.engine].validate(deployment.document())

    def _sealed(self, options: EngineOptions, before: EngineOptions) -> EngineOptions:
        """The options with the provider's key sealed. One that is left out stays; an empty one is removed."""
        sealed = {name: value for name, value in options.items() if name != SECRET_OPTION}
        key = options.get(SECRET_OPTION)
        if key is None:
            return sealed | {name: value for name, value in before.items() if name == SECRET_OPTION}
        if not isinstance(key, str):
            raise InvalidInput("must be a string", param=f"engine_options.{SECRET_OPTION}")
        return sealed | ({SECRET_OPTION: self._sealer.seal(key)} if key else {})

    async def _share_limits(self, session: AsyncSession, limits: Limits, siblings: Sequence[Deployment]) -> None:
        """A name has one set of limits, whichever of its deployments answers."""
        for sibling in siblings:
            if sibling.limits != limits:
                changed = msgspec.structs.replace(sibling, limits=limits, updated_at=self._clock.now())
                await repository.save(session, changed)
                await self._publish(session, changed)

    async def _publish(self, session: AsyncSession, deployment: Deployment) -> None:
        document = deployment.document()
        await publish(session, DEPLOYMENT_KIND, deployment.id, document, region=deployment.region)


def default_engine(model: ModelDocument, options: EngineOptions) -> EngineName:
    """The engine of the model's first artifact that one loads; a provider's address means `upstream`."""
    if "base_url" in options:
        return "upstream"
    for artifact in model.artifacts:
        if artifact.format == "onnx" and model.task in _ENGINE_BY_TASK:
            return _ENGINE_BY_TASK[model.task]
        if artifact.format in _ENGINE_BY_FORMAT:
            return _ENGINE_BY_FORMAT[artifact.format]
    raise InvalidInput(
        f"model '{model.id}' has no weights that an engine here loads",
        param="engine",
        hint="name an engine: upstream with engine_options.base_url, or simulated",
    )


def _check_beside(deployment: Deployment, siblings: Sequence[Deployment], *, has_weight: bool) -> None:
    """Raises where a deployment cannot serve one name with those there are."""
    name = deployment.name
    if not has_weight:
        raise Conflict(
            f"region '{deployment.region}' has a deployment named '{name}' already",
            hint="choose another name, change that one, or give a weight to serve the name together",
        )
    if len(siblings) >= MAX_DEPLOYMENTS_PER_NAME:
        raise Conflict(f"'{name}' has {len(siblings)} deployments, which is the most", hint="delete some first")
    first = siblings[0]
    if deployment.organization_id != first.organization_id:
        raise Conflict(f"'{name}' serves others than this organization_id", hint="choose another name")
    if deployment.model.task != first.model.task:
        raise InvalidInput(
            f"'{name}' is a name for {first.model.task}, and this model is for {deployment.model.task}", param="model"
        )


def _needs_new_replicas(before: Deployment, after: Deployment) -> bool:
    fields = ("context_tokens", "slots", "memory_bytes", "cpu_threads", "engine_options", "placement")
    return any(getattr(before, field) != getattr(after, field) for field in fields)


def _organizations(caller: Caller) -> list[str]:
    """Where the caller may see deployments of its own."""
    ids = {membership.organization_id for membership in caller.memberships}
    return sorted(
        organization_id
        for organization_id in ids
        if any(
            caller.may("deployments:read", organization_id, membership.project_id)
            for membership in caller.memberships
            if membership.organization_id == organization_id
        )
    )


def _may_see(caller: Caller, deployment: Deployment) -> bool:
    if caller.is_operator or deployment.organization_id is None:
        return True
    return deployment.organization_id in _organizations(caller)


def _trimmed(replica: ReplicaStatus) -> ReplicaStatus:
    """A report's replica with a reason of bounded length."""
    if replica.reason is None or len(replica.reason) <= MAX_REASON_CHARACTERS:
        return replica
    return msgspec.structs.replace(replica, reason=replica.reason[:MAX_REASON_CHARACTERS])
