"""`calls rebuild`: everything derived, once more."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import formats, result
from ledger.rebuild import rebuild


@click.command()
@formats
@takes_ledger
def command(ledger: Path, form: str) -> None:
    """Make all that is derived again from the log: the rows of call and histogram, their indexes, the views.

    All of it or nothing, and nothing when the log does not fold. Calls that are being recorded wait meanwhile:
    better do it when there are none.
    """
    with Progress("rebuilding") as progress:
        made = rebuild(ledger, progress.show)
    kept = f", {made.kept} of them kept, because their samples are pruned" if made.kept else ""
    text = f"made {made.calls} calls and {made.histogram} rows of history again from {made.events} events{kept}"
    result(form, made._asdict(), text)
