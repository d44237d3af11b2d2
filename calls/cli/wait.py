"""`calls wait`: until calls end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from calls.cli.common import attended, takes_calls, takes_ledger
from ledger.read import Reader


@click.command()
@takes_calls
@takes_ledger
def command(ledger: Path, calls: tuple[str, ...]) -> None:
    """Wait for calls to end and print their exit codes, one a line, in the order given.

    For a call without an exit code: the exit status of its `calls run` (125 never ran, 130 cancelled, …).
    """
    with Reader(ledger) as reader:
        for call_id in [reader.resolve(call) for call in calls]:
            for _ in attended(reader, call_id):
                if reader.ended(call_id):
                    break
            click.echo(_code(reader.show(call_id)))


def _code(call: dict[str, Any]) -> int:
    if call["exit_code"] is not None:
        return int(call["exit_code"])
    from calls.outcome import Call, exit_status

    return exit_status(Call(**{name: call[name] for name in Call._fields}))
