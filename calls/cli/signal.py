"""`calls signal`: a message for a call."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli.answers import ask
from calls.cli.common import takes_call, takes_ledger
from calls.cli.render import formats


@click.command()
@takes_call
@click.argument("signal", metavar="SIGNAL")
@formats
@takes_ledger
def command(ledger: Path, form: str, call: str, signal: str) -> int:
    """Pass a signal (TERM, SIGTERM or 15) on to a call, as a message, and wait until it was sent.

    The call ends as if nobody had asked for its end, whatever it makes of the message: only when its exit code is
    128 + that signal it is killed/user. To end a call: calls cancel, calls kill.

    Exit status: 1 when the call does not run or there is none such, 2 when the signal could not be sent.
    """
    from calls.identity import requester
    from machine.facts import SignalRequested
    from machine.signals import signal_name, signal_number
    from machine.states import Kind

    try:
        name = signal_name(signal_number(signal))
    except ValueError as error:
        raise click.UsageError(f"SIGNAL: {error}") from None
    sent = {"signal": name, "why": "signal"}
    fact = SignalRequested(by=requester("cli"), signal=name)
    return ask(ledger, (call,), form, fact, lambda event: event["kind"] == Kind.SIGNALLED and event["data"] == sent)
