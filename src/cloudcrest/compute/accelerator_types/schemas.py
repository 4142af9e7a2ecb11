"""What the management API says about accelerator types."""

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from cloudcrest.compute.accelerator_types.repository import StoredType
from cloudcrest.compute.api import AcceleratorType
from cloudcrest.kernel.money import plain

_MAX_COUNT = 2**53
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._()+/-]{0,99}$")]
Dtype = Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")]
Rate = Annotated[StrictInt | StrictFloat, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]


class AcceleratorCount(BaseModel):
    """How many there are of a type in a region; shown to operators alone."""

    region: str
    total: int
    allocated_milli: int


class AcceleratorPrice(BaseModel):
    """What a second of one costs."""

    currency: str = Field(examples=["USD"])
    per_second: str = Field(examples=["0.0008"])


class AcceleratorView(BaseModel):
    """A type of accelerator. Figures that are not known are null. `regions`: where there are any now."""

    id: str = Field(examples=["nvidia-h100-80gb"])
    family: str = Field(examples=["nvidia"])
    name: str = Field(examples=["NVIDIA H100 SXM"])
    names: list[str] = Field(description="What its vendor's tool calls it")
    memory_bytes: int
    peak_tflops: dict[str, float] = Field(description="By dtype, dense: 10^12 operations a second")
    bandwidth_bytes_per_second: int | None = Field(description="Of its memory")
    interconnect: str | None = Field(examples=["NVLink 4"])
    interconnect_bytes_per_second: int | None
    power_watts: int | None
    engines: list[str]
    dtypes: list[str]
    sources: list[str] = Field(description="Where the figures are from")
    origin: Literal["known", "detected", "operator"]
    prices: list[AcceleratorPrice] = Field(description="As rate cards of compute/<id> have it now")
    regions: list[str]
    counts: list[AcceleratorCount] | None = None
    updated_at: datetime


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")

    names: list[Word] | None = Field(default=None, max_length=16, description="What its vendor's tool calls it")
    peak_tflops: dict[Dtype, Rate] | None = Field(default=None, max_length=32, examples=[{"bf16": 989.4}])
    bandwidth_bytes_per_second: Count | None = None
    interconnect: Word | None = None
    interconnect_bytes_per_second: Count | None = None
    power_watts: int | None = Field(default=None, ge=1, le=1_000_000)
    engines: list[Word] | None = Field(default=None, max_length=32)
    dtypes: list[Dtype] | None = Field(default=None, max_length=32)
    sources: list[Annotated[str, Field(min_length=1, max_length=300)]] | None = Field(default=None, max_length=16)

    def figures(self) -> dict[str, Any]:
        """What was said, as `AcceleratorType` has it; null empties a list."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        for name in ("names", "engines", "dtypes", "sources"):
            if name in given:
                given[name] = tuple(given[name] or ())
        if "peak_tflops" in given:
            given["peak_tflops"] = {name: float(rate) for name, rate in (given["peak_tflops"] or {}).items()}
        return given


class CreateAccelerator(_Figures):
    """A type that is not known: one that nodes report under `names` is then of it."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", examples=["acme-one-8gb"])
    family: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", examples=["acme"])
    name: Word = Field(examples=["Acme One"])
    memory_bytes: Count = Field(examples=[8_589_934_592])

    def type(self) -> AcceleratorType:
        """The type."""
        return AcceleratorType(**self.figures())


class ChangeAccelerator(_Figures):
    """What to change; what is left out stays. Figures that are null are not known any more."""

    name: Word | None = None
    memory_bytes: Count | None = None

    def changes(self) -> dict[str, Any]:
        """Only what was said; a name and memory stay."""
        return {
            name: value
            for name, value in self.figures().items()
            if value is not None or name not in ("name", "memory_bytes")
        }


def view(
    stored: StoredType, counts: Collection[AcceleratorCount], prices: Mapping[str, Decimal], *, for_operator: bool
) -> AcceleratorView:
    """A type as a caller may see it: tenants see where there are any, operators how many."""
    return AcceleratorView(
        **msgspec.to_builtins(msgspec.structs.asdict(stored.type)),
        origin=stored.origin,
        prices=[AcceleratorPrice(currency=name, per_second=plain(price)) for name, price in sorted(prices.items())],
        regions=sorted({count.region for count in counts if count.total}),
        counts=sorted(counts, key=lambda count: count.region) if for_operator else None,
        updated_at=stored.updated_at,
    )
