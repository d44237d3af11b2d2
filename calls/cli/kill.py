"""`calls kill`: a signal for a call."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli.common import request, takes_calls, takes_ledger
from calls.cli.render import formats


@click.command()
@takes_calls
@click.option("--signal", "-s", metavar="SIGNAL", default="KILL", show_default=True, help="TERM, SIGTERM or 15.")
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...], signal: str) -> int:
    """Send calls a signal. A call that ends of it is killed/user.

    Exit status: 1 when a call has ended already or there is none such.
    """
    from calls.identity import requester
    from machine.facts import KillRequested
    from machine.signals import signal_name, signal_number

    try:
        name = signal_name(signal_number(signal))
    except ValueError as error:
        raise click.UsageError(f"--signal: {error}") from None
    return request(ledger, calls, form, KillRequested(by=requester("cli"), signal=name))
