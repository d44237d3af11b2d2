"""`calls backup`: a copy of the ledger, while it is being written."""

from __future__ import annotations

from pathlib import Path

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import formats, result
from ledger.backup import backup


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@formats
@takes_ledger
def command(ledger: Path, form: str, file: Path) -> None:
    """Copy the ledger into FILE, as it is at one moment. Writers go on meanwhile.

    FILE must not be there yet, and appears only when it is whole. It is a ledger like any other.
    """
    with Progress("copying") as progress:
        copy = backup(ledger, file, progress.show)
    text = f"{file}: {copy.calls} calls, {copy.events} events, {words.size(copy.bytes)}"
    result(form, {"file": str(file), **copy._asdict()}, text)
