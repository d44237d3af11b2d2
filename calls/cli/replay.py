"""`calls replay`: a call as it stood at any moment, folded from its log; and a whole ledger folded again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import TABLE, Column, emit, formats, put, result, to_json
from calls.cli.standing import lines, show
from calls.cli.times import SLACK, nanoseconds
from ledger.moment import Log, Moment
from ledger.read import Reader
from ledger.replay import Difference, Folded, check
from machine.errors import LedgerError, UsageError
from machine.states import State
from machine.units import duration

_STATES = (
    Column("STATE", lambda row: row["state"] or "(none: its events make no call)", coloured=True),
    Column("CALLS", lambda row: str(row["calls"]), right=True),
)
_DIFFERENCES = (
    Column("CALL", lambda row: words.short(row["call"])),
    Column("SEQ", lambda row: "" if row["seq"] is None else str(row["seq"]), right=True),
    Column("COLUMN", lambda row: row["column"]),
    Column("STORED", lambda row: _value(row["stored"]), fold=True),
    Column("FOLDED", lambda row: _value(row["folded"]), fold=True),
)


@click.command()
@click.argument("call", required=False, metavar="[CALL]")
@click.option(
    "--at", metavar="SEQ|TIME|+DURATION", help="After event SEQ, at a TIME (UTC), or so long after submission."
)
@click.option("--check", "checked", is_flag=True, help="Compare with what is stored; exit status 1 if it differs.")
@click.option("--step", is_flag=True, help="Walk through the events one by one, on a terminal.")
@click.option("--all", "whole", is_flag=True, help="The whole ledger: what its calls fold to.")
@formats
@takes_ledger
def command(
    ledger: Path, form: str, call: str | None, at: str | None, *, checked: bool, step: bool, whole: bool
) -> int:
    """Show a call as it stood at a moment (the end of its log), folded from its log by the machine's own table.

    --check compares with what is stored: each event's state, and the row of the call.
    """
    _exclude({"CALL": call, "--all": whole})
    _exclude({"--all": whole, "--at": at})
    for name, other in {"--all": whole, "--check": checked, f"--{form}": form != TABLE}.items():
        _exclude({"--step": step, name: other})
    if whole:
        return _whole(ledger, form, checked=checked)
    if call is None:
        raise click.UsageError("name a CALL, or give --all")
    with Reader(ledger) as reader:
        call_id = reader.resolve(call)
    if step:
        from calls.cli.stepping import walk

        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "--step needs a terminal; without one there are calls replay --at SEQ --json and calls events"
            )
        with Log(ledger, call_id) as log:
            walk(log, 1 if at is None else _moment(log, at).seq)
        return 0
    return _one(ledger, form, call_id, at, checked=checked)


def _exclude(given: Mapping[str, object]) -> None:
    if all(given.values()):
        raise click.UsageError(f"{' and '.join(given)} exclude each other")


def _one(path: Path, form: str, call_id: int, at: str | None, *, checked: bool) -> int:
    found = check(path, call_id).differences if checked else []
    try:
        with Log(path, call_id) as log:
            stood = log.stood(_moment(log, at))
    except LedgerError:
        if not found:
            raise
        stood = {"id": found[0].call}
    if form == TABLE:
        show([*lines(stood), *_checked(found, checked=checked)])
    else:
        rows = {"differences": [difference._asdict() for difference in found]} if checked else {}
        result(form, {**stood, **rows}, "")
    return int(bool(found))


def _moment(log: Log, text: str | None) -> Moment:
    if text is None:
        return log.end()
    if text.isdecimal():
        return log.after(_parsed(int, text, text))  # (even of digits there may be too many)
    if text.startswith("+"):
        since = _parsed(duration, text[1:], text)
        return log.at(log.past[0].at + since, _slack(since))
    time_ = _parsed(nanoseconds, text, text)
    return log.at(time_, _slack(time_))


def _parsed(read: Callable[[str], int], text: str, given: str) -> int:
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--at: {given!r} is no moment: write the number of an event, a time (2025-10-09T08:54:21.5Z), "
            "or the time since the submission (+90s)"
        ) from None


def _slack(time_: int) -> int:
    return SLACK if time_ % 1_000_000 == 0 else 0


def _checked(found: Sequence[Difference], *, checked: bool) -> Iterator[tuple[str, str]]:
    if checked and not found:
        yield "check", "what is stored is what the log folds to"
    for difference in found:
        where = "call" if difference.seq is None else f"event {difference.seq}"
        yield (
            "differs",
            f"{where}.{difference.column}: {_value(difference.stored)}, folded: {_value(difference.folded)}",
        )


def _value(value: Any) -> str:
    return "NULL" if value is None else str(value)


def _whole(path: Path, form: str, *, checked: bool) -> int:
    begun = time.perf_counter()
    with Progress("folding") as progress:
        folded = check(path, progress=progress.show)
    seconds = time.perf_counter() - begun
    found = [difference._asdict() for difference in folded.differences] if checked else []
    states = [{"state": state, "calls": folded.states[state]} for state in (*State, None) if folded.states[state]]
    rows, columns = (found, _DIFFERENCES) if checked else (states, _STATES)
    if form == "json":
        rate = round(folded.events / seconds)
        figures = {"calls": folded.calls, "events": folded.events, "seconds": seconds, "events_per_second": rate}
        put(to_json(figures | ({"differences": found} if checked else {"states": states}), indent=2) + "\n")
    else:
        if rows or form != TABLE:
            emit(form, rows, columns, ("state", "calls") if not checked else Difference._fields)
        if form == TABLE:
            put(f"{_summary(folded, seconds)}{_verdict(found) if checked else ''}\n")
    return int(bool(found))


def _summary(folded: Folded, seconds: float) -> str:
    counted = ((folded.calls, "call"), (folded.events, "event"))
    calls, events = (f"{count} {what}{'s' * (count != 1)}" for count, what in counted)
    return f"{calls}, {events}, folded in {words.span(seconds)}, {folded.events / seconds:.0f} events/s"


def _verdict(found: Sequence[object]) -> str:
    return (
        f": {len(found)} difference{'s' * (len(found) > 1)}" if found else ": what is stored is what the log folds to"
    )
