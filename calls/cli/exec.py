"""`calls exec`: another command in the container of a call that runs."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calls.cli.answers import must_run
from calls.cli.common import revive, takes_ledger
from calls.cli.passing import write
from ledger.read import Reader

if TYPE_CHECKING:
    from calls.visit import Visit
    from driver.protocol import Execution, Resize


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--interactive", "-i", is_flag=True, help="Pass standard input on to it.")
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal; with -i, typed to at ours.")
@click.option(
    "--env", "-e", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here."
)
@click.option("--user", "-u", metavar="USER", help="Run it as that user.")
@click.option("--workdir", "-w", metavar="DIR", help="Run it in that folder.")
@takes_ledger
@click.argument("call", metavar="CALL")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def command(ledger: Path, call: str, words: tuple[str, ...], env: tuple[str, ...], *, tty: bool, **how: Any) -> int:
    """Run another command in the container of a call that runs, as docker exec does.

    Who ran what, and how it ended, is recorded; its output is not, since it is not the call's. A process of this
    host (--driver local) has no container.

    Exit status: the command's own; 126 or 127 when the container has no such command; 125 when it was not run.
    """
    from calls.cli.terminal import require
    from calls.options import variables
    from calls.visit import visit
    from driver.protocol import Execution
    from machine import notation
    from machine.configuration import check_text

    for option, spelled in (("user", notation.user), ("workdir", notation.absolute)):
        if how[option]:
            check_text(option, how[option], spelled)
    wanted = Execution(words, variables(env), **how, terminal=_sized if tty else None)
    if tty and wanted.interactive:
        require()
    with Reader(ledger) as reader:
        call_id = must_run(reader, call)
        revive(reader)
        with visit(reader, call, call_id) as found:
            return _execute(found, wanted)


def _execute(found: Visit, wanted: Execution) -> int:
    """Run it and record it; -> its exit code. What breaks it off is recorded as well."""
    from calls.cli.terminal import raw
    from calls.identity import requester
    from machine.errors import DriverError, UnknownOutcomeError
    from machine.facts import Executed

    redactor, begun = found.redactor(wanted.env), time.monotonic()

    def note(code: int | None = None, error: str | None = None) -> None:
        command = tuple(redactor.text(word) for word in wanted.command)
        spent = round(time.monotonic() - begun, 3)
        said = None if error is None else redactor.text(error)
        found.note(Executed(by=requester("cli"), command=command, exit_code=code, seconds=spent, error=said))

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    typed_to = wanted.interactive and wanted.terminal is not None
    try:
        with raw() if typed_to else contextlib.nullcontext():
            code = found.container.execute(wanted, _pass_on)
    except (KeyboardInterrupt, SystemExit):
        note(error="interrupted: its end was not seen")
        raise
    except Exception as failed:
        if not isinstance(failed, DriverError) or isinstance(failed, UnknownOutcomeError):  # else nothing was run
            note(error=str(failed))
        raise
    note(code)
    return code


def _sized(resize: Resize) -> None:
    """Its terminal has the size of ours, from now on."""
    from calls.cli.terminal import follow

    follow(resize)()


def _pass_on(stream: int, data: bytes) -> None:
    """The command's output becomes ours, byte for byte."""
    view = memoryview(data)
    while view:
        view = view[write(stream, view) :]
