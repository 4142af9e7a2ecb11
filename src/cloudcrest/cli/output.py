"""How results are printed: a table for people, JSON or CSV for programs. Results go to stdout, messages to stderr."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cloudcrest.cli.options import Format

Row = Mapping[str, Any]
Column = tuple[str, str | Callable[[Row], Any]]
"""A heading, and the path of the field below it (`limits.requests_per_minute`) or what to make of the row."""

UNCONNECTED_WIDTH = 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?( [A-Z]{3})?\Z")


def show_rows(rows: Iterable[Row], columns: Sequence[Column], format: Format, *, empty: str) -> None:
    """Many things. `empty`: what to say where there are none, for people."""
    listed = list(rows)
    if format == "json":
        print_json([dict(row) for row in listed])
    elif format == "csv":
        print(csv_line([heading for heading, _ in columns]))
        for row in listed:
            print(csv_line([as_text(value_of(row, field)) for _, field in columns]))
    elif not listed:
        note(empty)
    else:
        _print_table(listed, columns)


def show_one(thing: Row, columns: Sequence[Column], format: Format) -> None:
    """One thing, a line for each field."""
    if format != "table":
        show_rows([thing], columns, "csv", empty="") if format == "csv" else print_json(dict(thing))
        return
    width = max(len(heading) for heading, _ in columns)
    for heading, field in columns:
        print(f"{heading:<{width}}  {as_text(value_of(thing, field)) or '-'}")


def show_done(done: Row, message: str, format: Format) -> None:
    """What leaves nothing to show: `message` for people, and for programs what was done."""
    if format == "table":
        note(message)
    else:
        show_one(done, [(name, name) for name in done], format)


def csv_line(cells: Sequence[str]) -> str:
    """One row. What a spreadsheet would take for a formula is marked as text; numbers and amounts stay as they are."""
    line = io.StringIO()
    marked = [f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.match(cell) else cell for cell in cells]
    csv.writer(line, lineterminator="").writerow(marked)
    return line.getvalue()


def print_json(value: object) -> None:
    """Exactly what a program gets to read."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A message for the person, beside the result."""
    print(message, file=sys.stderr)


def show_text(text: str) -> None:
    """A piece of text as it comes."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wants (`| head`); keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def value_of(row: Row, field: str | Callable[[Row], Any]) -> Any:
    """The value at a dotted path, or None where the path ends early."""
    if callable(field):
        return field(row)
    value: Any = row
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def as_text(value: object) -> str:
    """A value as a cell: lists by commas, mappings as name=value, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={as_text(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value)
    return str(value)


def moment(field: str) -> Callable[[Row], str]:
    """A column of times: ISO 8601 from the API, to the second, in UTC, as people read them."""

    def read(row: Row) -> str:
        value = as_text(value_of(row, field))
        return value[:19].replace("T", " ") if value else ""

    return read


def _print_table(rows: list[Row], columns: Sequence[Column]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else UNCONNECTED_WIDTH, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [[value_of(row, field) for _, field in columns] for row in rows]
    for position, (heading, _) in enumerate(columns):
        is_number = all(isinstance(row[position], int | float) and not isinstance(row[position], bool) for row in cells)
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(as_text(value)) for value in row))
    console.print(table)
