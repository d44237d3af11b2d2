"""What the commands share: which ledger, which calls, news of them, and requests to whoever runs them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calls.settings import ledger_path
from machine.errors import CallEndedError, CallsError, LedgerError, UsageError

if TYPE_CHECKING:
    from ledger.account import Row
    from ledger.read import Reader
    from machine.facts import Fact

Command = Callable[..., Any]
Ask = Callable[["Reader", Callable[..., None], str, "Fact"], int]

LOOK = 0.1
"""Seconds between two looks whether somebody wrote; a look costs microseconds."""
AGAIN = 5.0
"""Seconds after which there is news even if nobody wrote: some things only grow old, and runners may die."""


def takes_ledger(command: Command) -> Command:
    """Let --ledger stand after the command, too. The command gets `ledger`, where the file is or would be.

    Only the long form: after `run`, -l is what people know from Docker as a label.
    """

    @click.option(
        "--ledger", type=click.Path(), metavar="FILE", help="The ledger; may stand before the command as well."
    )
    @click.pass_context
    @functools.wraps(command)
    def placed(context: click.Context, /, ledger: str | None, **options: Any) -> Any:
        if context.info_name != "run":  # a spec is checked as a whole, but for the names of files among its values
            _check_texts(context)
        return command(ledger=ledger_path(context.obj if ledger is None else ledger), **options)

    return placed


def _check_texts(context: click.Context) -> None:
    """UsageError for an argument that is not UTF-8, if it is not the name of a file: that may be any bytes."""
    for parameter in context.command.params:
        given = context.params[str(parameter.name)]
        if not isinstance(parameter.type, click.Path) and not _is_utf8(given):
            name = parameter.opts[0]
            if isinstance(parameter, click.Argument):
                name = (parameter.metavar or name.upper()).strip("[.]")
            raise UsageError(f"{name}: contains bytes that are not UTF-8")


def _is_utf8(given: Any) -> bool:
    if isinstance(given, tuple):
        return all(map(_is_utf8, given))
    if not isinstance(given, str) or given.isascii():
        return True
    from machine.notation import is_utf8  # few arguments need it

    return is_utf8(given)


def takes_calls(command: Command) -> Command:
    """One CALL or more, as `calls`."""
    return click.argument("calls", nargs=-1, required=True, metavar="CALL...")(command)


def takes_call(command: Command) -> Command:
    """One CALL, as `call`."""
    return click.argument("call", metavar="CALL")(command)


def news(reader: Reader) -> Iterator[None]:
    """Yield now, and again whenever somebody has written to the ledger or AGAIN has passed."""
    seen, waited = None, 0.0
    while True:
        if (version := reader.version()) != seen or waited >= AGAIN:
            seen, waited = version, 0.0
            yield
        else:
            time.sleep(LOOK)
            waited += LOOK


def attended(reader: Reader, call_id: int) -> Iterator[None]:
    """As `news`, and `revive` beside it: not at all news, which come many times a second where others are at work.

    Where that does not help this call, it is said once: there may never be news of it.
    """
    looked_at, alone = -AGAIN, 0
    for _ in news(reader):
        yield
        if time.monotonic() - looked_at >= AGAIN:
            looked_at = time.monotonic()
            alone = alone + 1 if call_id in revive(reader) else 0
            if alone == 2:
                click.echo("calls: the call's runner is gone; still waiting (calls recover says why)", err=True)


def with_orphans(reader: Reader, calls: Iterable[Row]) -> Iterator[Row]:
    """`calls` with a key `orphan`: its runner is gone, and what the record says of it may not be true any more."""
    from calls.orphans import orphans

    uids = {call.uid for call in orphans(reader.unsettled(), time.time_ns())}
    return ({**call, "orphan": call["id"] in uids} for call in calls)


def revive(reader: Reader) -> set[int]:
    """See that the calls of a ledger are somebody's: those that have lost their runner are recovered behind us.

    -> these, by their numbers in the ledger.
    """
    from calls.orphans import orphans, summon

    if alone := {call.call_id for call in orphans(reader.unsettled(), time.time_ns())}:
        summon(reader.path)
    return alone


def request(path: Path, calls: Sequence[str], form: str, fact: Fact, ask: Ask | None = None) -> int:
    """Write what is asked for into each call's log, where its runner sees it within a fifth of a second.

    Prints each CALL as it was given, like `docker kill`; -> 0, or 1 or 2 when one of them could not be asked.
    `ask` takes the place of `put`.
    """
    from calls.cli.render import say
    from ledger.ledger import Ledger
    from ledger.read import Reader

    status = 0

    def asked() -> Iterator[Row]:
        nonlocal status
        for call in calls:
            try:
                call_id = (ask or put)(reader, ledger.append, call, fact)
            except CallsError as error:
                click.echo(f"calls: {error}", err=True)
                status = max(status, 1 if error.no else 2)
            else:
                yield {"call": call, "id": reader.show(call_id)["id"]}

    with Reader(path) as reader, Ledger(path) as ledger:
        say(form, asked(), lambda row: row["call"], ("call", "id"))
        revive(reader)  # whoever takes the call over sees the request
    return status


def put(reader: Reader, append: Callable[..., None], call: str, fact: Fact) -> int:
    """Write what is asked for into a call's log; -> its number there. CallEndedError when it is over."""
    call_id = reader.resolve(call)
    try:
        if not reader.ended(call_id):
            append(call_id, fact.kind, None, time.time_ns(), None, fact.dump())
            return call_id
    except LedgerError:
        if not reader.ended(call_id):  # else it ended just now, and the ledger takes no more requests
            raise
    shown = reader.show(call_id)
    raise CallEndedError(f"{call} has ended already: {shown['state']}/{shown['reason']}")
