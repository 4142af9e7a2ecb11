"""What the management API says about quotas."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cloudcrest.compute.quotas.service import UsedQuota

Identifier = Annotated[str, Field(min_length=1, max_length=64)]
Resource = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="An accelerator type, or cpu: of work without accelerators",
        examples=["nvidia-h100-80gb"],
    ),
]
Milli = Annotated[int, Field(ge=0, le=10**12, description="Thousandths of accelerators, or of CPUs", examples=[8000])]


class QuotaAmounts(BaseModel):
    """How much. `ceiling_milli` null: whatever is free may be borrowed."""

    model_config = ConfigDict(extra="forbid")

    guaranteed_milli: Milli
    ceiling_milli: Milli | None = None


class CreateQuota(QuotaAmounts):
    """A quota of an organization, for operators, or of one of its projects, for its admins."""

    region: str = Field(default="local", min_length=1, max_length=64)
    organization_id: Identifier | None = None
    project_id: Identifier | None = None
    resource: Resource


class QuotaView(BaseModel):
    """A quota, and what is used of its resource now. `project_id` null: the organization's own."""

    id: str = Field(examples=["quota_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    region: str
    organization_id: str
    project_id: str | None
    resource: str
    guaranteed_milli: int
    ceiling_milli: int | None
    used_milli: int
    borrowed_milli: int = Field(description="Used beyond what is guaranteed; given back when its owner wants it")
    created_by: str
    created_at: datetime
    updated_at: datetime


def view(used: UsedQuota) -> QuotaView:
    """A quota as it is shown."""
    quota = used.quota
    return QuotaView(
        id=quota.id,
        region=quota.region,
        organization_id=quota.organization_id,
        project_id=quota.project_id or None,
        resource=quota.resource,
        guaranteed_milli=quota.guaranteed_milli,
        ceiling_milli=quota.ceiling_milli,
        used_milli=used.used_milli,
        borrowed_milli=used.borrowed_milli,
        created_by=quota.created_by,
        created_at=quota.created_at,
        updated_at=quota.updated_at,
    )
