"""`calls replay --step`: through a call's log event by event, on a terminal."""

from __future__ import annotations

from collections.abc import Callable

import click

from calls.cli.standing import lines, show
from ledger.moment import Log

_STEPS = {"\r": 1, "\n": 1, " ": 1, "n": 1, "p": -1, "b": -1}
_KEYS = "Enter next, p previous, g first, G last, q quit"


def walk(log: Log, seq: int, read: Callable[[], str] = click.getchar) -> None:
    """Show the event `seq` and the call after it, then go where the keys that `read` gives say, until q or Ctrl-D."""
    last = len(log.past)
    while True:
        click.clear()
        show(lines(log.stood(log.after(seq))))
        click.echo(f"\n{_KEYS} ", nl=False)
        try:
            key = read()
        except EOFError:
            key = "q"
        if key == "q":
            click.echo()
            return
        wanted = {"g": 1, "G": last}.get(key, seq + _STEPS.get(key, 0))
        seq = min(max(wanted, 1), last)
