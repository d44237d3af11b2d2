"""`calls salvage`: what is good in a damaged ledger, in a new one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from calls.cli import words
from calls.cli.progress import Progress
from calls.cli.render import TABLE, Column, formats, result, table
from ledger.salvage import Lost, Salvaged, salvage

_COLUMNS = (
    Column("CALL", lambda row: words.short(row["call"]) if row["call"] else f"number {row['number']}"),
    Column("KEPT", lambda row: f"{row['kept']} of {row['of'] or '?'}", right=True),
    Column("FIRST BAD", lambda row: "" if row["seq"] is None else str(row["seq"]), right=True),
    Column("WHY", lambda row: row["why"], fold=True),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", "new", type=click.Path(path_type=Path), required=True, metavar="NEW", help="A new file."
)
@formats
def command(form: str, file: Path, new: Path) -> int:
    """Write what is good in FILE, a damaged ledger, into NEW. FILE is only read.

    Of each call it keeps as many events as are there from the first on and prove themselves, with the samples and the
    output that they cover. A call that lost its end lives in NEW: calls recover settles it.

    Exit status: 0, or 1 when something was lost.
    """
    with Progress("saving") as progress:
        saved = salvage(file, new, progress.show)
    if form == TABLE and saved.lost:
        table((lost._asdict() for lost in saved.lost), _COLUMNS)
    row = {"file": str(new), **saved._asdict(), "lost": [lost._asdict() for lost in saved.lost]}
    result(form, row, "\n".join(_lines(saved, new)))
    return int(bool(saved.lost or saved.missing_pages or not saved.identity))


def _lines(saved: Salvaged, new: Path) -> Iterator[str]:
    if saved.missing_pages:
        yield f"the file is too short: {saved.missing_pages} pages are missing at its end"
    if not saved.identity:
        yield f"the id of the ledger is lost: {new} has a new one, and containers that are left will not be found by it"
    damaged = sum(1 for lost in saved.lost if lost.kept)
    parts = [f"{saved.calls} calls, {saved.events} events, {saved.samples} samples"]
    parts.append(f"{words.size(saved.output_bytes)} of output")
    if saved.uncovered:
        parts.append(f"{saved.uncovered} rows of them not covered by an event yet")
    state = (
        f"{damaged} of the calls damaged, {_gone(saved.lost)} known to be lost" if saved.lost else "nothing was lost"
    )
    yield f"{new}: {', '.join(parts)}; {state}"


def _gone(lost: list[Lost]) -> int:
    return sum(1 for each in lost if not each.kept)
