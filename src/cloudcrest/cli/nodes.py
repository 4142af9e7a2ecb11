"""`nodes`: the machines of the cloud, for who runs it."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, moment, show_done, show_one, show_rows
from cloudcrest.kernel.errors import NotFound
from cloudcrest.kernel.units import format_bytes, parse_bytes

app = App(name="nodes", help="Nodes: the machines of this cloud, for operators.")

RegionOption = Annotated[str | None, Parameter(name="--region", help="Only this region's.")]
_RACK: list[Column] = [
    ("id", "id"),
    ("region", "region"),
    ("zone", "zone"),
    ("rack", "name"),
    ("power limit (W)", "power_limit_watts"),
]


def _accelerators(node: Row) -> str:
    given = node.get("accelerators")
    if given is None:
        return ""
    return f"{given['allocated_milli'] / 1000:g}/{given['count']} × {given['type']}"


def _cores(node: Row) -> str:
    return f"{node['cpu_allocated_milli'] / 1000:g}/{node['cpu_milli'] / 1000:g}"


def _memory(node: Row) -> str:
    return f"{format_bytes(node['memory_allocated_bytes'])}/{format_bytes(node['memory_bytes'])}"


def _disk(node: Row) -> str:
    return f"{format_bytes(node['disk_allocated_bytes'])}/{format_bytes(node['disk_bytes'])}"


def _kept(node: Row) -> str:
    return f"{node['reserved_cpu_milli'] / 1000:g} cores, {format_bytes(node['reserved_memory_bytes'])}"


_NODE: list[Column] = [
    ("id", "id"),
    ("node", "node"),
    ("region", "region"),
    ("zone", "zone"),
    ("rack", "rack"),
    ("state", "state"),
    ("accelerators", _accelerators),
    ("cores", _cores),
    ("memory", _memory),
    ("taints", "taints"),
]
_MORE: list[Column] = [
    ("reason", "reason"),
    ("processor", "cpu_model"),
    ("disk", _disk),
    ("processes", "processes"),
    ("other accelerators", lambda node: [f"{each['count']} × {each['type']}" for each in node["other_accelerators"]]),
    ("labels", "labels"),
    ("set labels", "set_labels"),
    ("power at rest (W)", "power_watts"),
    ("kept by the system", _kept),
    ("since", moment("created_at")),
    ("gone since", moment("gone_since")),
]


@app.command(name="list")
def list_nodes(
    *,
    region: RegionOption = None,
    limit: Annotated[int, Parameter(help="How many at most.")] = 1000,
    options: Options = DEFAULTS,
) -> None:
    """Lists nodes, how they are and what is given out of them."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("nodes"), limit=limit, region=region)
        show_rows(found, [*_NODE, _MORE[0]], options.format, empty="no nodes: no region has reported any")


@app.command
def show(node: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows one node, by id or by what its region calls it."""
    with Client(management(options)) as cloud:
        _show(_find(cloud, node), options)


@app.command
def label(node: str, /, *labels: str, options: Options = DEFAULTS) -> None:
    """Sets labels (`team=search`) and takes them away (`team-`)."""
    if not labels:
        raise WrongUsage("there is no label to set", hint="write name=value, or name- to take one away")
    changes: dict[str, str | None] = {}
    for text in labels:
        name, separator, value = text.partition("=")
        if not separator and not name.endswith("-"):
            raise WrongUsage(f"'{text}' is no label", hint="write name=value, or name- to take one away")
        changes[name if separator else name[:-1]] = value if separator else None
    _change(node, {"labels": changes}, options)


@app.command
def taint(node: str, /, *taints: str, options: Options = DEFAULTS) -> None:
    """Adds taints (`experiments`) and takes them away (`experiments-`): only work that tolerates each comes there."""
    if not taints:
        raise WrongUsage("there is no taint to add", hint="write a name, or name- to take one away")
    with Client(management(options)) as cloud:
        found = _find(cloud, node)
        gone = {text[:-1] for text in taints if text.endswith("-")}
        added = {text for text in taints if not text.endswith("-")}
        body = {"taints": sorted(({*found["taints"]} | added) - gone)}
        _show(cloud.patch(at("nodes", found["id"]), body), options)


@app.command
def update(
    node: str,
    /,
    *,
    zone: Annotated[str | None, Parameter(help="Its zone; empty: as it was started.")] = None,
    rack: Annotated[str | None, Parameter(help="Its rack; empty: as it was started.")] = None,
    power_watts: Annotated[int | None, Parameter(help="What it draws at rest.")] = None,
    reserved_memory: Annotated[str | None, Parameter(help="Memory that is not given out, as in 4GiB.")] = None,
    reserved_cores: Annotated[float | None, Parameter(help="Cores that are not given out.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Says where a node is and what of it is not given out."""
    body: Json = {}
    for name, text in (("zone", zone), ("rack", rack)):
        if text is not None:
            body[name] = text or None
    if power_watts is not None:
        body["power_watts"] = power_watts
    if reserved_memory is not None:
        body["reserved_memory_bytes"] = parse_bytes(reserved_memory, field="--reserved-memory")
    if reserved_cores is not None:
        body["reserved_cpu_milli"] = round(reserved_cores * 1000)
    if not body:
        raise WrongUsage("there is nothing to change", hint="see `cloudcrest nodes update --help`")
    _change(node, body, options)


@app.command
def cordon(node: str, /, *, options: Options = DEFAULTS) -> None:
    """Gives a node nothing new; what runs there stays."""
    _change(node, {"is_cordoned": True}, options)


@app.command
def uncordon(node: str, /, *, options: Options = DEFAULTS) -> None:
    """Gives a node work again, after `cordon` or `drain`."""
    _change(node, {"is_cordoned": False, "is_draining": False}, options)


@app.command
def drain(node: str, /, *, options: Options = DEFAULTS) -> None:
    """Gives a node nothing new, and has what runs there move away."""
    _change(node, {"is_draining": True}, options)


@app.command
def forget(node: str, /, *, options: Options = DEFAULTS) -> None:
    """Forgets a node that is gone, and what was set of it."""
    with Client(management(options)) as cloud:
        found = _find(cloud, node)
        cloud.delete(at("nodes", found["id"]))
        show_done({"forgotten": found["id"]}, f"forgot {node}", options.format)


@app.command
def racks(*, region: RegionOption = None, options: Options = DEFAULTS) -> None:
    """Lists the racks with a limit to their power."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("racks"), region=region)
        show_rows(found, _RACK, options.format, empty="none: `cloudcrest nodes rack NAME --power-limit-watts N`")


@app.command
def rack(
    name: str,
    /,
    *,
    power_limit_watts: Annotated[int | None, Parameter(help="What its nodes may draw together.")] = None,
    no_limit: Annotated[bool, Parameter(negative=(), help="Takes the limit away.")] = False,
    zone: Annotated[str, Parameter(help="Its zone, where its nodes are in one.")] = "",
    region: Annotated[str, Parameter(help="Its region.")] = "local",
    options: Options = DEFAULTS,
) -> None:
    """Limits what the nodes of a rack may draw together, or takes the limit away."""
    if (power_limit_watts is None) != no_limit:
        raise WrongUsage("give either --power-limit-watts or --no-limit")
    with Client(management(options)) as cloud:
        there = [
            each for each in cloud.items(at("racks"), region=region) if (each["zone"], each["name"]) == (zone, name)
        ]
        if no_limit:
            if not there:
                raise NotFound(f"rack '{name}' has no limit", hint="see `cloudcrest nodes racks`")
            cloud.delete(at("racks", there[0]["id"]))
            show_done({"deleted": there[0]["id"]}, f"rack {name} has no limit any more", options.format)
        elif there:
            limit = {"power_limit_watts": power_limit_watts}
            show_one(cloud.patch(at("racks", there[0]["id"]), limit), _RACK, options.format)
        else:
            body = {"region": region, "zone": zone or None, "name": name, "power_limit_watts": power_limit_watts}
            show_one(cloud.post(at("racks"), body), _RACK, options.format)


def _change(node: str, body: Json, options: Options) -> None:
    with Client(management(options)) as cloud:
        _show(cloud.patch(at("nodes", _find(cloud, node)["id"]), body), options)


def _show(node: Json, options: Options) -> None:
    show_one(node, [*_NODE, *_MORE], options.format)


def _find(cloud: Client, node: str) -> dict[str, Any]:
    """A node by its id, or by what its region calls it where that is one alone."""
    if node.startswith("node_"):
        return cloud.get(at("nodes", node))
    named = [each for each in cloud.items(at("nodes")) if each["node"] == node]
    if len(named) > 1:
        # One that is gone does not stand in the way of one that is there.
        named = [each for each in named if each["state"] != "gone"] or named
    if len(named) == 1:
        return named[0]
    if named:
        raise WrongUsage(f"several regions have a node '{node}'", hint=", ".join(str(each["id"]) for each in named))
    raise NotFound(f"there is no node '{node}'", hint="see `cloudcrest nodes list`")
