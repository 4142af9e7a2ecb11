"""What the management API says about deployments."""

from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from cloudcrest.catalog.api import PullProgress, Task
from cloudcrest.compute.scheduler.model import WHOLE, Domain
from cloudcrest.identity.api import Limits
from cloudcrest.serving.api import DeploymentState, EngineName, ReplicaState
from cloudcrest.serving.engines.api import MAX_SLOTS
from cloudcrest.serving.records import ReportedReplica
from cloudcrest.serving.service import SECRET_OPTION, DeploymentStatus, Wish

MAX_REPLICAS = 1_000
MAX_WEIGHT = 1_000_000
_MAX_COUNT = 2**31 - 1

OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
OptionValue = Annotated[StrictStr, Field(max_length=2_000)] | StrictBool | StrictInt | StrictFloat
Options = Annotated[
    dict[OptionName, OptionValue],
    Field(
        max_length=32,
        description="The engine's own options. `api_key` (upstream) is stored sealed and never shown again.",
        examples=[{"base_url": "https://api.example.com/v1", "model": "provider-model", "api_key": "…"}],
    ),
]
TypeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]
LabelValue = Annotated[str, Field(max_length=200)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000, examples=[4096])]


class Body(BaseModel):
    """A request's body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ReplicaCounts(Body):
    """How many replicas are wanted. `min` 0 stops the deployment."""

    min: int | None = Field(default=None, ge=0, le=MAX_REPLICAS, examples=[1])
    max: int | None = Field(default=None, ge=1, le=MAX_REPLICAS, examples=[2])

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError("max must be at least min")
        return self


class Resources(Body):
    """What each replica may take; null: as the engine estimates."""

    memory_bytes: int | None = Field(default=None, ge=1, le=2**62, examples=[2_000_000_000])
    cpu_threads: int | None = Field(default=None, ge=1, le=4096, examples=[4])


class PlacementBody(Body):
    """Where replicas run, and what each gets there beside memory. What is left out stays."""

    accelerators: int | None = Field(
        default=None, ge=0, le=64, examples=[1], description="Whole ones for each replica; null: as the engine says"
    )
    accelerator_milli: int = Field(
        default=WHOLE, ge=1, le=WHOLE, examples=[1000], description="Thousandths of a single one; 1000: all of each"
    )
    accelerator_types: list[TypeName] = Field(
        default=[], max_length=16, examples=[["nvidia-h100-80gb"]], description="The first that is free; empty: any"
    )
    cpu_milli: int | None = Field(
        default=None, ge=0, le=4_096_000, examples=[2000], description="Thousandths of processors that are kept for it"
    )
    spread: Domain = Field(default="zone", description="As evenly as can be over these")
    node_labels: dict[LabelName, LabelValue] = Field(
        default={}, max_length=16, examples=[{"cloudcrest.io/zone": "a"}], description="What its nodes must have"
    )
    tolerations: list[LabelName] = Field(
        default=[], max_length=16, examples=[["models-only"]], description="Taints that these may have"
    )

    def changes(self) -> dict[str, Any]:
        """The fields that were given, as a `Placement` has them."""
        given = self.model_dump(exclude_unset=True)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


class RateLimits(Body):
    """Limits of this model over all its callers; null: none."""

    requests_per_minute: int | None = Field(default=None, ge=1, le=_MAX_COUNT, examples=[600])
    tokens_per_minute: int | None = Field(default=None, ge=1, le=2**62, examples=[1_000_000])
    concurrent_requests: int | None = Field(default=None, ge=1, le=_MAX_COUNT, examples=[64])
    growth_percent_per_minute: int | None = Field(
        default=None, ge=1, le=_MAX_COUNT, examples=[100], description="How much faster requests may come each minute"
    )
    growth_floor_requests_per_minute: int | None = Field(
        default=None, ge=1, le=_MAX_COUNT, examples=[60], description="Up to this rate growth is not limited; null: 60"
    )


class ChangeDeployment(Body):
    """What to change; what is left out stays. All but `replicas`, `limits` and `weight` rolls out new replicas."""

    replicas: ReplicaCounts | None = None
    context_tokens: Tokens | None = Field(default=None, description="Context of each slot")
    slots: int | None = Field(default=None, ge=1, le=MAX_SLOTS, description="Requests at once in each replica")
    resources: Resources | None = None
    placement: PlacementBody | None = None
    engine_options: Options | None = None
    limits: RateLimits | None = Field(default=None, description="Of the name: its other deployments get them, too")
    weight: int | None = Field(
        default=None,
        ge=0,
        le=MAX_WEIGHT,
        description="Share of the name's requests: weight over the sum of its deployments' weights; 0: none, but warm",
        examples=[10],
    )

    def wish(self) -> Wish:
        """The body as the service takes it."""
        return Wish(
            replicas_min=self.replicas.min if self.replicas else None,
            replicas_max=self.replicas.max if self.replicas else None,
            context_tokens=self.context_tokens,
            slots=self.slots,
            memory_bytes=self.resources.memory_bytes if self.resources else None,
            cpu_threads=self.resources.cpu_threads if self.resources else None,
            engine_options=self.engine_options,
            limits=None if self.limits is None else Limits(**self.limits.model_dump()),
            weight=self.weight,
            placement=None if self.placement is None else self.placement.changes(),
        )


class CreateDeployment(ChangeDeployment):
    """A new deployment: only `model` is needed; beside others of its name also `weight`."""

    model: str = Field(min_length=1, max_length=200, examples=["smollm2-135m-instruct"])
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$",
        description="What callers write in `model`; the model's id when left out",
        examples=["smollm2-135m-instruct"],
    )
    engine: EngineName | None = Field(default=None, description="Chosen by the model's weights when left out")
    region: str = Field(default="local", min_length=1, max_length=64, examples=["local"])
    organization_id: str | None = Field(
        default=None, min_length=1, max_length=64, description="Serve this organization alone", examples=[None]
    )


class PullView(BaseModel):
    """How far the fetch of the weights is."""

    phase: str = Field(examples=["downloading"])
    done_bytes: int = Field(examples=[48_000_000])
    total_bytes: int | None = Field(examples=[98_000_000])
    source: str | None = None
    reason: str | None = None


class ReplicaView(BaseModel):
    """One replica, as its region last reported it."""

    id: str = Field(examples=["rep_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    generation: int = Field(examples=[1])
    state: ReplicaState = Field(examples=["ready"])
    restarts: int = Field(examples=[0])
    node_id: str | None = Field(examples=["local"], description="Shown to operators alone; null while it has no place")
    reason: str | None = Field(default=None, examples=["its weights are being fetched"])
    pull: PullView | None = None
    reported_at: datetime


class ReplicasView(BaseModel):
    """Wanted and ready replicas."""

    min: int = Field(examples=[1])
    max: int = Field(examples=[1])
    ready: int = Field(examples=[1])


class DeploymentView(BaseModel):
    """A deployment and how it is. `engine_options` and `has_api_key` are shown to operators alone."""

    id: str = Field(examples=["dep_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    name: str = Field(examples=["smollm2-135m-instruct"])
    model: str = Field(examples=["smollm2-135m-instruct"])
    task: Task
    engine: EngineName
    region: str = Field(examples=["local"])
    organization_id: str | None = None
    state: DeploymentState = Field(examples=["ready"])
    reason: str | None = Field(default=None, description="Why it is not (wholly) ready, in a sentence")
    generation: int = Field(examples=[1])
    replicas: ReplicasView
    replica_states: list[ReplicaView]
    weight: int = Field(examples=[100])
    context_tokens: int = Field(examples=[4096])
    slots: int = Field(examples=[4])
    resources: Resources
    placement: PlacementBody
    limits: RateLimits
    engine_options: dict[str, str | int | float | bool] | None = None
    has_api_key: bool | None = None
    created_at: datetime
    updated_at: datetime


def view(status: DeploymentStatus, *, for_operator: bool) -> DeploymentView:
    """What a caller may see of a deployment. The provider's key is shown to nobody."""
    deployment = status.deployment
    options = {name: value for name, value in deployment.engine_options.items() if name != SECRET_OPTION}
    return DeploymentView(
        id=deployment.id,
        name=deployment.name,
        model=deployment.model.id,
        task=deployment.model.task,
        engine=deployment.engine,
        region=deployment.region,
        organization_id=deployment.organization_id,
        state=status.state,
        reason=status.reason,
        generation=deployment.generation,
        replicas=ReplicasView(
            min=deployment.replicas_min,
            max=deployment.replicas_max,
            ready=sum(1 for replica in status.replicas if replica.status.state == "ready"),
        ),
        replica_states=[_replica(replica, for_operator=for_operator) for replica in status.replicas],
        weight=deployment.weight,
        context_tokens=deployment.context_tokens,
        slots=deployment.slots,
        resources=Resources(memory_bytes=deployment.memory_bytes, cpu_threads=deployment.cpu_threads),
        placement=PlacementBody(**msgspec.structs.asdict(deployment.placement)),
        limits=RateLimits(**msgspec.to_builtins(deployment.limits)),
        engine_options=options if for_operator else None,
        has_api_key=SECRET_OPTION in deployment.engine_options if for_operator else None,
        created_at=deployment.created_at,
        updated_at=deployment.updated_at,
    )


def _replica(replica: ReportedReplica, *, for_operator: bool) -> ReplicaView:
    status = replica.status
    return ReplicaView(
        id=status.id,
        generation=status.generation,
        state=status.state,
        restarts=status.restarts,
        node_id=status.node_id or None if for_operator else None,
        reason=status.reason,
        pull=None if status.pull is None else _pull(status.pull),
        reported_at=replica.reported_at,
    )


def _pull(progress: PullProgress) -> PullView:
    return PullView(**msgspec.structs.asdict(progress))
