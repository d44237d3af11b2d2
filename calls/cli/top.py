"""`calls top`: the processes of a call."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli import words
from calls.cli.answers import must_run
from calls.cli.common import revive, takes_call, takes_ledger
from calls.cli.render import Column, emit, formats
from ledger.read import Reader

_COLUMNS = (
    Column("PID", lambda row: str(row["pid"]), right=True),
    Column("PARENT", lambda row: "" if row["parent"] is None else str(row["parent"]), right=True),
    Column("USER", lambda row: row["user"]),
    Column("CPU", lambda row: words.span(row["cpu_seconds"]), right=True),
    Column("COMMAND", lambda row: row["command"], fold=True),
)


@click.command()
@takes_call
@formats
@takes_ledger
def command(ledger: Path, form: str, call: str) -> None:
    """Show the processes of a call that runs, by the process ids of its host. That somebody looked is recorded.

    Exit status: 1 when the call does not run or there is none such.
    """
    from calls.identity import requester
    from calls.visit import visit
    from machine.errors import NotRunningError
    from machine.facts import Listed

    with Reader(ledger) as reader:
        call_id = must_run(reader, call)
        revive(reader)
        with visit(reader, call, call_id) as found:
            processes = found.container.processes()
            if not processes:
                raise NotRunningError(f"{call} does not run any more")
            found.note(Listed(by=requester("cli")))
    emit(form, [each._asdict() for each in processes], _COLUMNS)
