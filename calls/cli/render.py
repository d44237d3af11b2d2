"""What the reading commands print: a table for people, or --json, --nl, --csv, --tsv as in sqlite-utils.

The form never depends on whether a terminal is there; only folding and colour do.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import click

Row = Mapping[str, Any]
Command = Callable[..., Any]

TABLE = "table"
_FORMS = {
    "json": "Print a JSON array.",
    "nl": "Print one JSON object a line.",
    "csv": "Print comma-separated values.",
    "tsv": "Print tab-separated values.",
}
_STYLES = {"success": "green", "error": "red", "timeout": "red", "killed": "red", "cancelled": "yellow"}
_STYLES |= {"ok": "green", "bad": "red", "off": "yellow"}
_FOLD = 20
"""Cells are folded to this width and no further."""
_INFINITE = (float("inf"), float("-inf"))
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_VISIBLE |= {9: "\\t", 10: "\\n", 13: "\\r"}


class Column(NamedTuple):
    """A column of a table: `text` makes its cell of a row.

    `right`: set to the right. `fold`: may be broken over lines where the terminal is narrow. `width`: at
    least so wide. `coloured`: a state or a verdict, coloured on a terminal.
    """

    title: str
    text: Callable[[Row], str]
    right: bool = False
    fold: bool = False
    width: int = 0
    coloured: bool = False


def formats(command: Command) -> Command:
    """Add --json, --nl, --csv and --tsv, of which one may be given: the command gets it as `form`."""

    @functools.wraps(command)
    def checked(*arguments: Any, **options: Any) -> Any:
        given = [name for name in _FORMS if options.pop(name)]
        if len(given) > 1:
            raise click.UsageError(f"--{given[0]} and --{given[1]} exclude each other")
        return command(*arguments, form=given[0] if given else TABLE, **options)

    for name, text in reversed(_FORMS.items()):
        checked = click.option(f"--{name}", is_flag=True, help=text)(checked)
    return checked


def emit(form: str, rows: Iterable[Row], columns: Sequence[Column], names: Sequence[str] = ()) -> None:
    """Print rows in a form. `names`: the keys of the rows, for the header of a CSV that has none."""
    if form == TABLE:
        table(rows, columns)
    elif form == "nl":
        for row in rows:
            put(to_json(row) + "\n")
    elif form == "json":
        opening = "["
        for row in rows:
            put(opening + to_json(row))
            opening = ",\n "
        put("]\n" if opening != "[" else "[]\n")
    else:
        _separated(rows, names, "," if form == "csv" else "\t")


def say(form: str, rows: Iterable[Row], line: Callable[[Row], str], names: Sequence[str]) -> None:
    """As `emit`, where people get no table but a line for each row, as soon as there is one."""
    if form != TABLE:
        emit(form, rows, (), names)
        return
    for row in rows:
        click.echo(line(row))


def put(text: str) -> None:
    """Write to standard output. What it cannot encode is escaped, as JSON would: never a reason to stop."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors != "backslashreplace":
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(text)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text. Bytes are text where they are UTF-8, else an object with base64, as in sqlite-utils.

    A number that JSON does not have (an infinite one) is null.
    """
    dumps = functools.partial(json.dumps, default=_bytes, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        return dumps(value)
    except ValueError:
        return dumps({name: None if each in _INFINITE else each for name, each in value.items()})  # of a query


def _bytes(value: bytes) -> str | dict[str, Any]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        import base64

        return {"$base64": True, "encoded": base64.b64encode(value).decode("ascii")}


def _separated(rows: Iterable[Row], names: Sequence[str], delimiter: str) -> None:
    rows = iter(rows)
    first = next(rows, None)
    header = list(first if first is not None else names)
    writer = csv.writer(_Put(), delimiter=delimiter)
    if header:
        writer.writerow(header)
    for row in chain([first] if first is not None else [], rows):
        writer.writerow([flat(row[name]) for name in header])


class _Put:
    def write(self, line: str) -> None:
        put(line.removesuffix("\r\n") + "\n")  # csv quotes only the characters that end its lines: both must


def flat(value: Any) -> str:
    """A value as one cell: nothing for None, text as it is, everything else as JSON."""
    plain = _bytes(value) if isinstance(value, bytes) else str(value) if value in _INFINITE else value
    return "" if plain is None else plain if isinstance(plain, str) else to_json(plain)


def table(rows: Iterable[Row], columns: Sequence[Column], *, header: bool = True) -> None:
    """Print a table as `docker ps` does: no lines, titles in capitals, nothing ever left out."""
    cells = [[visible(column.text(row)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _to_terminal(cells, columns, header=header)
    else:
        titles = [[column.title for column in columns]] if header else []
        _to_file(titles + cells, columns)


def visible(text: str) -> str:
    """Text on one line, control characters spelled out: what a call wrote must not steer the terminal."""
    return text if text.isprintable() else text.translate(_VISIBLE)


def _to_terminal(cells: Sequence[Sequence[str]], columns: Sequence[Column], *, header: bool) -> None:
    # rich folds and colours. It takes half a millisecond a row, so long lists into files do without it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = [[column.title for column in columns]] if header else []
    grid = Table(box=None, pad_edge=False, show_header=header)
    needed = -2
    for column, width in zip(columns, _widths([*titles, *cells], columns), strict=True):
        least = min(width, _FOLD) if column.fold else width
        needed += least + 2
        grid.add_column(column.title, justify="right" if column.right else "left", overflow="fold", min_width=least)
    for row in cells:
        styled = zip(row, columns, strict=True)
        grid.add_row(*(Text(cell, _style(cell) if column.coloured else "") for cell, column in styled))
    console = Console(highlight=False)
    width, height = console.size
    console.size = max(width, needed), height  # rich would cut cells; a terminal only breaks lines
    console.print(grid)


def _style(cell: str) -> str:
    return _STYLES.get(cell.partition("/")[0].rstrip("!"), "")


def _widths(lines: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[int]:
    return [max((column.width, *(_width(line[number]) for line in lines))) for number, column in enumerate(columns)]


def _to_file(lines: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    widths = _widths(lines, columns)
    for line in lines:
        padded = (
            " " * (width - _width(cell)) + cell if column.right else cell + " " * (width - _width(cell))
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        put("  ".join(padded).rstrip() + "\n")


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def result(form: str, row: Row, text: str) -> None:
    """Print what a command has done: `text` for people, one object with --json, one row in the other forms."""
    if form == TABLE:
        put(f"{text}\n")
    elif form == "json":
        put(to_json(row, indent=2) + "\n")
    else:
        emit(form, [row], ())
