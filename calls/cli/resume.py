"""`calls resume`: a paused call goes on."""

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
    """Let paused calls go on, and wait until they do. A call that is not paused is left alone.

    Exit status: 1 when a call does not run or there is none such, 2 when it could not be resumed.
    """
    from calls.identity import requester
    from machine.facts import ResumeRequested
    from machine.states import STARTED, State

    up = STARTED - {State.PAUSED}
    return ask(ledger, calls, form, ResumeRequested(by=requester("cli")), lambda event: event["state"] in up)
