"""`calls sql`: a query of one's own."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import click

from calls.cli.common import takes_ledger
from calls.cli.render import TABLE, Column, Row, emit, flat, formats
from ledger.read import Reader


@click.command()
@click.argument("query")
@click.option("--param", "-p", "params", nargs=2, multiple=True, metavar="NAME VALUE", help="A value for :NAME.")
@formats
@takes_ledger
def command(ledger: Path, form: str, query: str, params: tuple[tuple[str, str], ...]) -> None:
    """Query the ledger, read-only. The views for it: calls, events, samples, logs, histogram_point.

    calls sql 'select state, count(*) from calls group by state'
    """
    # Otherwise Ctrl-C would have to wait for SQLite; there is nothing to undo.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with Reader(ledger) as reader:
        names, found = reader.query(query, dict(params))
        rows: Iterable[Row] = (dict(zip(names, values, strict=True)) for values in found)
        if form == TABLE:
            rows = list(rows)
        emit(form, rows, [_column(name, rows) for name in names] if isinstance(rows, list) else (), names)


def _column(name: str, rows: Iterable[Row]) -> Column:
    numbers = all(isinstance(row[name], int | float | None) for row in rows)
    return Column(name, lambda row: flat(row[name]), right=numbers, fold=True)
