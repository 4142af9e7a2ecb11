"""`accelerators`: the types of chips that the cloud has or knows, and what they cost."""

from typing import Annotated

from cyclopts import App, Parameter

from cloudcrest.cli.client import Client, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, moment, show_one, show_rows
from cloudcrest.kernel.units import GIB

app = App(name="accelerators", help="Accelerators: types of chips, their figures and prices.")


def _prices(item: Row) -> list[str]:
    return [f"{each['per_second']} {each['currency']}" for each in item["prices"]]


def _counts(item: Row) -> list[str]:
    counts = item.get("counts")
    if counts is None:
        return list(item["regions"])
    return [f"{each['region']}: {each['allocated_milli'] / 1000:g}/{each['total']}" for each in counts]


def _rate(field: str) -> Column:
    def read(item: Row) -> str:
        value = item.get(field)
        return "" if value is None else f"{value / 1e9:g}"

    return (f"{field.removesuffix('_bytes_per_second').replace('_', ' ')} (GB/s)", read)


_TYPE: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("memory (GiB)", lambda item: f"{item['memory_bytes'] / GIB:.0f}"),
    ("bf16 (Tflop/s)", lambda item: item["peak_tflops"].get("bf16")),
    _rate("bandwidth_bytes_per_second"),
    ("power (W)", "power_watts"),
    ("price a second", _prices),
    ("taken/there", _counts),
]
_MORE: list[Column] = [
    ("family", "family"),
    ("called", "names"),
    ("peak (Tflop/s)", "peak_tflops"),
    ("interconnect", "interconnect"),
    _rate("interconnect_bytes_per_second"),
    ("engines", "engines"),
    ("dtypes", "dtypes"),
    ("figures from", "sources"),
    ("made by", "origin"),
    ("updated", moment("updated_at")),
]


@app.command(name="list")
def list_accelerators(
    *,
    available: Annotated[bool, Parameter(negative=(), help="Only types that some region has.")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Lists the types that this cloud knows; operators see how many there are."""
    with Client(management(options)) as cloud:
        found = [each for each in cloud.items(at("accelerators")) if each["regions"] or not available]
        show_rows(found, _TYPE, options.format, empty="no region has any")


@app.command
def show(accelerator: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows one type: figures, prices, and where there are any."""
    with Client(management(options)) as cloud:
        show_one(cloud.get(at("accelerators", accelerator)), [*_TYPE, *_MORE], options.format)
