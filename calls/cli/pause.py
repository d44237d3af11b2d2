"""`calls pause`: all processes of a call are frozen."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli.answers import ask
from calls.cli.common import takes_calls, takes_ledger
from calls.cli.render import formats


@click.command()
@takes_calls
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...]) -> int:
    """Freeze all processes of calls, and wait until they are. Their deadlines go on; calls resume ends it.

    Exit status: 1 when a call does not run or there is none such, 2 when it could not be paused.
    """
    from calls.identity import requester
    from machine.facts import PauseRequested
    from machine.states import State

    return ask(ledger, calls, form, PauseRequested(by=requester("cli")), lambda event: event["state"] == State.PAUSED)
