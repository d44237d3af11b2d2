"""`calls ps`: which calls there are."""

from __future__ import annotations

import re
from pathlib import Path

import click

from calls.cli import words
from calls.cli.common import takes_ledger, with_orphans
from calls.cli.render import TABLE, Column, Row, emit, formats, put
from ledger.account import FILTERS
from ledger.read import Reader
from machine.states import Reason, State

LAST = 20
_SEPARATOR = re.compile(f",(?=(?:{'|'.join(FILTERS)})=)")  # a comma may also be part of a label


def _exit(call: Row) -> str:
    return "" if call["exit_code"] is None else str(call["exit_code"])


COLUMNS = (
    Column("CALL", lambda call: words.short(call["id"])),
    Column("NAME", lambda call: call["name"] or "", fold=True),
    Column("IMAGE", lambda call: call["image"] or "", fold=True),
    Column("STATE", words.state, coloured=True),
    Column("REASON", lambda call: call["reason"] or ""),
    Column("EXIT", _exit, right=True),
    Column("WALL", lambda call: words.span(call["seconds"]["total"]), right=True),
    Column("CPU", lambda call: words.span(call["cpu_seconds"]), right=True),
    Column("PEAK MEM", lambda call: words.size(call["mem_peak_bytes"]), right=True),
    Column("STARTED", lambda call: words.when(call["started_at"])),
)


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="List all calls.")
@click.option("--last", "-n", type=click.IntRange(min=1), metavar="N", help="List the last N calls.")
@click.option("--quiet", "-q", is_flag=True, help="Print ids only.")
@click.option("--filter", "-f", "filters", multiple=True, metavar="KEY=VALUE", help="List only calls that match.")
@formats
@takes_ledger
def command(
    ledger: Path, form: str, filters: tuple[str, ...], last: int | None, *, everything: bool, quiet: bool
) -> None:
    """List calls: those that live and the last 20, newest first.

    The keys of --filter are state, reason, name, image and label (NAME or NAME=VALUE). Names and images may
    be patterns: name=batch-*. Given twice, a key takes either value; labels must all be there.

    A "!" after the state: memory ran out in the call, and it went on. A "?": its runner is gone (calls recover).
    """
    if quiet and form != TABLE:
        raise click.UsageError(f"--quiet and --{form} exclude each other")
    limit = last if last is not None else None if everything else LAST
    only = [_filter(part) for given in filters for part in _SEPARATOR.split(given)]
    with Reader(ledger) as reader:
        found = with_orphans(reader, reader.calls(limit, live=last is None, only=only))
    if quiet:
        put("".join(f"{call['id']}\n" for call in found))
    else:
        emit(form, found, COLUMNS)


def _filter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if key not in FILTERS or not value:
        raise click.UsageError(f"--filter {text}: write KEY=VALUE with one of the keys {', '.join(FILTERS)}")
    vocabulary = {"state": tuple(State), "reason": tuple(Reason)}.get(key)
    if vocabulary and value not in vocabulary:
        raise click.UsageError(f"--filter {text}: there is no such {key}; there are {', '.join(vocabulary)}")
    return key, value
