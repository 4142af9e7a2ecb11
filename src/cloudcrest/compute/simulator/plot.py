"""A replay as a picture: an SVG of what was given out, fragmented and waiting over time. Pure."""

from collections.abc import Sequence
from html import escape

from cloudcrest.compute.simulator.report import HOUR, Report

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 860, 180, 60, 40, 50
_COLOURS = ("#1f6feb", "#d1242f", "#8250df")


def svg(report: Report) -> str:
    """Two charts, one above the other: percent of the cluster, and jobs that wait and run."""
    samples = report.samples
    hours = [(sample.at - samples[0].at) / HOUR for sample in samples] if samples else []
    whole = report.accelerators * 1000
    percents = [("CPUs given out, %", [100 * each.cpu / max(1.0, report.cpus * 1000) for each in samples])]
    if whole:
        percents.insert(0, ("accelerators given out, %", [100 * each.accelerators / whole for each in samples]))
        percents.append(("fragmented, %", [100 * each.fragmented / whole for each in samples]))
    jobs = [
        ("jobs waiting", [float(each.waiting) for each in samples]),
        ("jobs running", [float(each.running) for each in samples]),
    ]
    height = _TOP + 2 * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{_LEFT}" y="18">{escape(_title(report))}</text>',
        *_chart(_TOP, hours, percents, 100.0),
        *_chart(_TOP + _HEIGHT + _GAP, hours, jobs, max((max(line, default=1.0) for _, line in jobs), default=1.0)),
        "</svg>",
    ]
    return "\n".join(parts)


def _title(report: Report) -> str:
    return f"{report.jobs} jobs on {report.nodes} nodes, {report.hours:,.0f} hours"


def _chart(top: int, hours: Sequence[float], lines: Sequence[tuple[str, Sequence[float]]], most: float) -> list[str]:
    last, most = max(hours, default=1.0) or 1.0, most or 1.0
    parts = [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#d0d7de"/>',
        f'<text x="{_LEFT - 8}" y="{top + 10}" text-anchor="end">{most:,.0f}</text>',
        f'<text x="{_LEFT - 8}" y="{top + _HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{_LEFT + _WIDTH}" y="{top + _HEIGHT + 16}" text-anchor="end">{last:,.0f} h</text>',
    ]
    for number, (name, values) in enumerate(lines):
        points = " ".join(
            f"{_LEFT + _WIDTH * hour / last:.1f},{top + _HEIGHT * (1 - min(value, most) / most):.1f}"
            for hour, value in zip(hours, values, strict=True)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{_LEFT + 8 + 220 * number}" y="{top - 6}" fill="{colour}">{escape(name)}</text>')
    return parts
