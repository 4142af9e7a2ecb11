"""`simulate`: what a cluster would do with a trace of jobs, by the scheduler that the cloud runs."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, note, print_json, show_one, show_rows

app = App(name="simulate", help="Simulate: try a cluster before it is bought, with the scheduler that the cloud runs.")


def _never(row: Row) -> str:
    """How many jobs are missing in all other figures, and how much work that is."""
    if not row["never_jobs"]:
        return "none"
    of = [("CPU", row["never_cpu_hours"], row["never_cpu_percent"])]
    of += [("accelerator", row["never_accelerator_hours"], row["never_accelerator_percent"])]
    hours = [f"{percent:.1f} % of the {kind} hours ({found:,.0f})" for kind, found, percent in of if found]
    jobs = f"{row['never_jobs']:,} jobs, {row['never_jobs_percent']:.1f} % of all"
    return f"{', '.join([jobs, *hours])}; they are in no figure below"


_CLUSTER: list[Column] = [
    ("nodes", "nodes"),
    ("accelerators", lambda row: f"{row['accelerators']:g}"),
    ("CPUs", lambda row: f"{row['cpus']:g}"),
    ("hours", lambda row: f"{row['hours']:,.1f}"),
    ("jobs ended", "jobs"),
    ("never placed", _never),
    ("why", lambda row: [f"{count}: {why}" for why, count in row["never"].items()]),
    ("accelerators given out", lambda row: f"{row['allocated_percent']:.1f} %"),
    ("CPUs given out", lambda row: f"{row['allocated_cpu_percent']:.1f} %"),
    ("fragmented", lambda row: f"{row['fragmented_percent']:.1f} %"),
    ("fairness (1: all fare alike)", lambda row: f"{row['fairness']:.3f}"),
    ("cost", lambda row: f"{row['cost']:,.2f}"),
]


def _hours(field: str) -> Column:
    return (field.removesuffix("_seconds").replace("_", " "), lambda row: f"{row[field] / 3600:.2f} h")


_CLASSES: list[Column] = [
    ("class", "class"),
    ("jobs", "jobs"),
    _hours("mean_seconds"),
    _hours("p50_seconds"),
    _hours("p95_seconds"),
    _hours("p99_seconds"),
    ("preemptions", "preemptions"),
    ("done again", lambda row: f"{row['repeated_hours']:.1f} h"),
]
_OWNERS: list[Column] = [
    ("organization", "owner"),
    ("jobs", "jobs"),
    ("accelerator hours", lambda row: f"{row['accelerator_hours']:,.1f}"),
    ("CPU hours", lambda row: f"{row['cpu_hours']:,.1f}"),
    ("stretch", lambda row: f"{row['stretch']:.2f}"),
    ("cost", lambda row: f"{row['cost']:,.2f}"),
]


@app.command
def cluster(
    *,
    nodes: Annotated[str, Parameter(help="A file of nodes, or as in 8xnvidia-h100-80gb:8,16xcpu:64:256.")],
    trace: Annotated[Path, Parameter(help="A file of jobs: openb_pod_list_*.csv or arrival_time,length,cpus.")],
    jobs: Annotated[int | None, Parameter(help="The first so many alone.")] = None,
    organizations: Annotated[int, Parameter(help="Among how many the jobs are divided.")] = 4,
    spot: Annotated[float, Parameter(help="Which part of the jobs may be preempted by the others.")] = 0.3,
    guarantee: Annotated[bool, Parameter(negative=(), help="Guarantee each an equal part of the cluster.")] = False,
    step: Annotated[float, Parameter(help="Seconds between decisions at the least.")] = 60.0,
    checkpoint: Annotated[float, Parameter(help="Seconds between checkpoints.")] = 1800.0,
    price: Annotated[
        list[str] | None, Parameter(help="Of a second: TYPE=AMOUNT or cpu=AMOUNT; may come again.")
    ] = None,
    seed: int = 0,
    plot: Annotated[Path | None, Parameter(help="Write a picture of it here (SVG).")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Replays a trace of jobs: what is given out, fragmented, waited for, preempted, and what it costs.

    cloudcrest simulate cluster --nodes 9xcpu:16:64 --trace gaia_pai-100k.csv.gz --guarantee --plot year.svg
    """
    from cloudcrest.compute.accelerators.known import known_types
    from cloudcrest.compute.simulator import plot as plots
    from cloudcrest.compute.simulator import trace as traces
    from cloudcrest.compute.simulator.quotas import equal_parts
    from cloudcrest.compute.simulator.replay import Options as ReplayOptions
    from cloudcrest.compute.simulator.replay import Replay
    from cloudcrest.compute.simulator.report import report

    types = {each.id: each for each in known_types()}
    machines = traces.read_nodes(Path(nodes)) if Path(nodes).is_file() else traces.made_nodes(nodes, types)
    found = traces.read_jobs(trace, jobs)
    mixture = traces.Mixture(organizations, spot, seed)
    settings = ReplayOptions(step, checkpoint, equal_parts(machines, organizations) if guarantee else ())
    columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("jobs", total=len(found))
        replay = Replay(
            machines, traces.workloads(found, mixture), settings, lambda ended: progress.update(bar, completed=ended)
        )
        outcome = replay.run()
    told = report(outcome, _prices(price))
    if plot is not None:
        plot.write_text(plots.svg(told))
        note(f"the picture is in {plot}")
    row: Row = msgspec.to_builtins(told)
    if options.format == "json":
        print_json(row)
        return
    show_one(row, _CLUSTER, options.format)
    print()
    classes = [{"class": "firm", **row["firm"]}, {"class": "spot", **row["spot"]}]
    show_rows([each for each in classes if each["jobs"]], _CLASSES, options.format, empty="no jobs ended")
    print()
    show_rows(row["organizations"], _OWNERS, options.format, empty="no jobs ended")


def _prices(given: list[str] | None) -> dict[str, float]:
    prices = {}
    for each in given or ():
        kind, _, amount = each.partition("=")
        try:
            prices[kind] = float(amount)
        except ValueError:
            raise WrongUsage(f"--price takes TYPE=AMOUNT, not '{each}'") from None
    return prices
