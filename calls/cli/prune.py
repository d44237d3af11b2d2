"""`calls prune`: remove what old calls have left, and say so for ever."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import formats, result
from calls.identity import requester
from ledger import retention
from ledger.examine import Finding
from ledger.retention import EVERYTHING, Amount
from ledger.sqlite import connect_reader, connect_writer, explain, sqlite3
from machine.units import duration


@click.command()
@click.option("--older-than", required=True, metavar="DURATION", help="Calls that ended longer ago than this: 30d.")
@click.option("--samples", is_flag=True, help="Their samples only.")
@click.option("--output", is_flag=True, help="Their output only.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--vacuum", is_flag=True, help="Return the space that is free to the file system.")
@formats
@takes_ledger
def command(
    ledger: Path, form: str, older_than: str, *, samples: bool, output: bool, dry_run: bool, vacuum: bool
) -> int:
    """Remove what calls have left that ended long ago: samples, output, history, and what their events say.

    That they were, when, and how they ended stays, and so does the proof: each call gets a tombstone with the
    digest of what went. Calls that live, or are not cleaned up yet, are not touched, and neither are damaged ones.

    Exit status: 0, or 1 when a damaged call was left alone.
    """
    if dry_run and vacuum:
        raise click.UsageError("--dry-run and --vacuum exclude each other")
    before = time.time_ns() - _duration(older_than)
    parts = {part for part, wanted in (("samples", samples), ("output", output)) if wanted} or EVERYTHING
    damaged: tuple[Finding, ...] = ()
    connect_reader(ledger).close()  # a ledger that is not there must not be made
    with closing(connect_reader(ledger) if dry_run else connect_writer(ledger)) as connection, explain(ledger):
        size = _size(ledger)
        if dry_run:
            amount = _weigh(connection, before, parts)
        else:
            amount, damaged = _prune(connection, before, parts)
        if vacuum:
            _vacuum(connection)
        returned = max(0, size - _size(ledger)) if vacuum else None
    row = {**amount._asdict(), "dry_run": dry_run, "returned_bytes": returned}
    row["damaged"] = [finding._asdict() for finding in damaged]
    result(form, row, _said(amount, older_than, returned, dry_run=dry_run))
    for finding in damaged:
        where = f"event {finding.seq}: " if finding.seq else ""
        click.echo(f"calls: {finding.call} is damaged and stays as it is: {where}{finding.what}", err=True)
    return int(bool(damaged))


def _duration(text: str) -> int:
    try:
        return duration(text)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from error


def _weigh(connection: sqlite3.Connection, before: int, parts: Iterable[str]) -> Amount:
    amount = Amount()
    found = retention.prunable(connection, before, parts)
    with Progress("weighing") as progress:
        for done, (call_id, _) in enumerate(found, 1):
            amount = amount.plus(retention.weigh(connection, call_id, parts))
            progress.show(done, len(found))
    return amount


def _prune(connection: sqlite3.Connection, before: int, parts: Iterable[str]) -> tuple[Amount, tuple[Finding, ...]]:
    step = retention.Step(0, 0, Amount(), ())
    with Progress("pruning") as progress:
        for step in retention.prune(connection, before, parts, requester("cli")):
            progress.show(step.done, step.total)
    return step.removed, step.damaged


def _vacuum(connection: sqlite3.Connection) -> None:
    total = 0
    with Progress("returning space") as progress:
        for left in retention.vacuum(connection):
            total = total or left
            progress.show(total - left, total)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())


def _said(amount: Amount, older_than: str, returned: int | None, *, dry_run: bool) -> str:
    freed = "" if returned is None else f"; {words.size(returned)} returned to the file system"
    if not amount.calls:
        return f"nothing to prune among calls that ended more than {older_than} ago{freed}"
    counted = (
        (amount.events, "events emptied"),
        (amount.samples, "samples"),
        (amount.output, "pieces of output"),
        (amount.buckets, "rows of history"),
    )
    parts = [f"{count} {what}" for count, what in counted if count]
    verb = "would prune" if dry_run else "pruned"
    calls = f"{amount.calls} call{'s' * (amount.calls > 1)}"
    return f"{verb} {calls}: {', '.join(parts)}, about {words.size(amount.bytes)}{freed}"
