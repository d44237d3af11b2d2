"""`calls wait`: until calls end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from calls.cli.common import attended, takes_calls, takes_ledger
from calls.cli.render import Row, formats, say
from ledger.read import Reader

_NAMES = ("id", "state", "reason", "exit_code", "signal", "oom", "never_ran", "message")


@click.command()
@takes_calls
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...]) -> None:
    """Wait for calls to end and print their exit codes, one a line, in the order given.

    For a call without an exit code: the exit status of its `calls run` (125 never ran, 130 cancelled, …).
    """
    with Reader(ledger) as reader:
        wanted = [(call, reader.resolve(call)) for call in calls]
        say(form, _ended(reader, wanted), lambda row: str(_code(row)), ("call", *_NAMES))


def _ended(reader: Reader, wanted: Iterable[tuple[str, int]]) -> Iterator[Row]:
    for call, call_id in wanted:
        for _ in attended(reader, call_id):
            if reader.ended(call_id):
                break
        shown = reader.show(call_id)
        yield {"call": call, **{name: shown[name] for name in _NAMES}}


def _code(call: Row) -> int:
    if call["exit_code"] is not None:
        return int(call["exit_code"])
    from calls.outcome import Call, exit_status

    return exit_status(Call(**{name: call[name] for name in Call._fields}))
