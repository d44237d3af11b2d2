"""`calls events`: the event log of a call."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click

from calls.cli import words
from calls.cli.common import news, takes_call, takes_ledger
from calls.cli.render import TABLE, Column, Row, emit, formats, table
from ledger.read import Reader
from machine.states import Kind

_COLUMNS = (  # wide enough for every kind and state: what follows later must stand below
    Column("SEQ", lambda event: str(event["seq"]), right=True, width=3),
    Column("T+", lambda event: f"{event['t_seconds']:.3f}", right=True, width=8),
    Column("EVENT", lambda event: event["kind"], width=16),
    Column("STATE", lambda event: event["state"], width=11, coloured=True),
    Column("DATA", lambda event: words.pairs(said(event)), fold=True),
)


@click.command()
@takes_call
@click.option("--follow", "-f", is_flag=True, help="Go on until the call ends.")
@formats
@takes_ledger
def command(ledger: Path, form: str, call: str, *, follow: bool) -> None:
    """Show the events of a call: what happened, when, and the state it led to. T+ counts seconds."""
    with Reader(ledger) as reader:
        call_id = reader.resolve(call)
        batches: Iterable[list[Row]] = _follow(reader, call_id) if follow else [list(reader.events(call_id))]
        if form != TABLE:
            emit(form, chain.from_iterable(batches), ())
            return
        for number, batch in enumerate(batches):
            table(batch, _COLUMNS, header=not number)


def _follow(reader: Reader, call_id: int) -> Iterator[list[Row]]:
    seen = 0
    for _ in news(reader):
        over = reader.settled(call_id)  # asked first: what comes after the answer is not missed
        events = reader.events(call_id, seen)
        if events:
            seen = events[-1]["seq"]
            yield list(events)
            sys.stdout.flush()
        if over:
            return


def said(event: Row) -> dict[str, Any]:
    """What a person wants to see of it, without nesting; --json has it all."""
    data = {name: value for name, value in event["data"].items() if name != "uid"}
    if event["kind"] == Kind.PRUNED:  # the rest are digests
        gone = [name for name in ("samples", "output", "events") if name in data]
        return {"by": data.get("by"), "removed": ",".join(gone)}
    for nested in ("spec", "evidence"):
        for name, value in data.pop(nested, {}).items():
            data.setdefault(name, value)
    owner = data.pop("owner", None)
    return data | ({"runner": f"{owner['host']}:{owner['pid']}"} if owner else {})
