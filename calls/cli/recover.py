"""`calls recover`: calls whose runner is gone get another one, or their true end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.launch import detached
from calls.cli.render import Column, emit, formats
from machine.errors import CallsError, LedgerError

_COLUMNS = (
    Column("CALL", lambda row: words.short(row["id"])),
    Column("WAS", lambda row: row["was"] or "unknown"),
    Column("NOW", lambda row: row["action"]),
    Column("STATE", lambda row: row["state"] or "", coloured=True),
    Column("REASON", lambda row: row["reason"] or ""),
    Column("DETAIL", lambda row: row["detail"] or "", fold=True),
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done to calls and containers.")
@click.option("--grace", metavar="TIME", default="1m", show_default=True, help="Leave younger containers alone.")
@formats
@takes_ledger
def command(ledger: Path, form: str, grace: str, *, dry_run: bool) -> int:
    """Settle calls whose runner is gone.

    A container that still runs is watched again, with its output from where it stopped, its samples and its
    original deadline, by a process that stays in the background; one that has ended gets the verdict that its
    engine knows; one that is gone leaves error/lost; one that was never started is removed. Then containers of
    this ledger without an open call are removed, if they are older than --grace.

    Every start of a runner does the same in the background. Exit status: 1 when something had to be left.
    """
    from machine.units import duration

    try:
        youngest = duration(grace)
    except ValueError as error:
        raise click.UsageError(f"--grace: {error}") from None
    if not ledger.exists():
        raise LedgerError(f"no ledger at {ledger} yet: there is nothing to recover")
    answer = detached(lambda answers: _recover(ledger, youngest, answers, dry_run=dry_run))
    if not answer:
        raise LedgerError("the recovering process was killed: what it had adopted is without a runner again")
    told: dict[str, Any] = json.loads(answer)
    if "error" in told:
        raise LedgerError(told["error"])
    found = told["found"]
    emit(form, found, _COLUMNS)
    if not found and form == "table":
        click.echo("calls: every call has its runner or its end", err=True)
    return int(any(row["action"] == "left" for row in found))


def _recover(ledger: Path, grace: int, answers: int, *, dry_run: bool) -> None:
    """In a process of its own: report on `answers`, then stay for what was re-attached."""
    from calls.recover import Recovery
    from calls.runner import Runner

    try:
        with Runner(ledger, recover=False) as runner:
            recovery = Recovery(runner, dry_run=dry_run)
            found = [row._asdict() for row in (*recovery.settle(), *recovery.reap(grace))]
            _answer(answers, {"found": found})
            for future in recovery.attached:
                future.exception()
            if recovery.attached:  # what they had in use is of no use any more
                list(recovery.reap(grace))
    except CallsError as error:
        _answer(answers, {"error": str(error)})


def _answer(answers: int, told: dict[str, Any]) -> None:
    """Report, and let go of the terminal: whoever waits for our output's end must not wait for the calls'."""
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with os.fdopen(answers, "w", encoding="utf-8") as pipe:
        json.dump(told, pipe)
