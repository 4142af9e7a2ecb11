"""What the management API says about regions."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from cloudcrest.regions.api import Region

RegionId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$", examples=["eu-west"])]


class RegionView(BaseModel):
    """A region. `link` and `last_seen_at` are shown to operators alone."""

    id: str = Field(examples=["local"])
    name: str = Field(examples=["This machine"])
    jurisdiction: str = Field(examples=["local"], description="ISO 3166 country code, or `local`")
    endpoint_url: str | None = Field(default=None, description="null: the cloud's own address")
    created_at: datetime
    zones: list[str] = Field(default=[], examples=[["eu-west-1a", "eu-west-1b"]], description="That its nodes are in")
    link: Literal["connected", "cut_off", "never_seen"] | None = Field(default=None, examples=["connected"])
    last_seen_at: datetime | None = None


class CreateRegion(BaseModel):
    """A new region."""

    model_config = ConfigDict(extra="forbid")

    id: RegionId
    name: str = Field(min_length=1, max_length=100, examples=["Europe, west"])
    jurisdiction: str = Field(pattern=r"^(local|[A-Z]{2})$", examples=["NL"])
    endpoint_url: HttpUrl | None = Field(default=None, max_length=300, examples=["https://eu-west.example.com"])


class RegionToken(BaseModel):
    """A link token, shown this once. Its region service sends it to the control plane."""

    region: str = Field(examples=["eu-west"])
    token: str = Field(examples=["rt-cc-9vQk…"])


class CreatedRegion(RegionToken):
    """A new region and its link token."""

    created: RegionView


def view(region: Region, zones: list[str], *, now: datetime, for_operator: bool) -> RegionView:
    """What a caller may see of a region."""
    answer = RegionView(
        id=region.id,
        name=region.name,
        jurisdiction=region.jurisdiction,
        endpoint_url=region.endpoint_url,
        created_at=region.created_at,
        zones=zones,
    )
    if for_operator:
        answer.last_seen_at = region.last_seen_at
        answer.link = "never_seen" if region.last_seen_at is None else "cut_off"
        if region.is_connected(now):
            answer.link = "connected"
    return answer
