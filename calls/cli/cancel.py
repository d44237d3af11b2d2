"""`calls cancel`: the end of a call, in good order."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli.common import request, takes_calls, takes_ledger
from calls.cli.render import formats


@click.command()
@takes_calls
@click.option("--comment", metavar="TEXT", help="Why; kept in the event log as it is.")
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...], comment: str | None) -> int:
    """End calls in good order: stop signal, grace, SIGKILL. They end as cancelled/user.

    The end is not waited for: calls wait does that. Exit status: 1 when a call has ended already or there
    is none such.
    """
    from calls.identity import requester
    from machine.facts import CancelRequested

    return request(ledger, calls, form, CancelRequested(by=requester("cli"), comment=comment))
