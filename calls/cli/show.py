"""`calls show`: everything about a call."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from calls.cli import words
from calls.cli.common import takes_calls, takes_ledger, with_orphans
from calls.cli.render import TABLE, Column, Row, emit, formats, put, table, to_json
from ledger.read import Reader

_COLUMNS = (
    Column("", lambda line: line["label"], width=len("container")),
    Column("", lambda line: line["text"], fold=True, coloured=True),
)
_SAID = frozenset(("image", "command", "name", "driver"))  # fields of the spec that have a line of their own


@click.command()
@takes_calls
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...]) -> None:
    """Show everything about calls.

    With --json one CALL is an object, several are an array. The times of a live call count up to now.
    """
    with Reader(ledger) as reader:
        found = list(with_orphans(reader, [reader.show(call) for call in calls]))
    if form == TABLE:
        for number, call in enumerate(found):
            put("\n" * bool(number))
            table(
                ({"label": label, "text": text} for label, text in _lines(call) if text),
                _COLUMNS,
                header=False,
            )
    elif form == "json" and len(found) == 1:
        put(to_json(found[0], indent=2) + "\n")
    else:
        emit(form, found, ())


def _lines(call: Row) -> Iterator[tuple[str, str]]:
    yield "call", call["id"]
    yield "name", call["name"] or ""
    yield "state", words.state(call) + (f"/{call['reason']}" if call["reason"] else "")
    yield "runner", "gone: calls recover tells what became of the call" if call["orphan"] else ""
    yield "message", call["message"] or ""
    yield "exit", _exit(call)
    yield "oom", _oom(call)
    yield "image", call["image"] or ""
    yield "digest", call["image_digest"] or ""
    yield "driver", call["driver"]
    yield "container", (call["container"] or "")[:12]
    yield "network", call["network"] or ""
    yield "ports", " ".join(f"{port}={','.join(places)}" for port, places in call["ports"].items())
    yield "command", shlex.join(call["spec"].get("command", ()))
    yield "asked", words.pairs({name: value for name, value in call["spec"].items() if name not in _SAID})
    for label in ("created", "started", "ended"):
        yield label, words.when(call[f"{label}_at"])
    yield "waited", _waited(call)
    yield "took", words.took(call)
    yield "cpu", words.span(call["cpu_seconds"])
    yield (
        "memory",
        f"{words.size(call['mem_peak_bytes'])} at most" if call["mem_peak_bytes"] is not None else "",
    )
    yield "samples", str(call["samples"])
    yield "gaps", str(call["gaps"] or "")
    yield "pruned", ", ".join(call["pruned"])
    yield "events", str(call["events"])
    yield "evidence", words.pairs(call["evidence"])


def _waited(call: Row) -> str:
    if call["waited_seconds"] is None:
        return ""
    lacking = [{"calls": "a slot", "turn": "its turn"}.get(name, name) for name in call["lacking"]]
    return f"{words.span(call['waited_seconds'])}, for {' and '.join(lacking)}"


def _exit(call: Row) -> str:
    if call["never_ran"]:
        return "it never ran"
    code = "" if call["exit_code"] is None else f"code {call['exit_code']}"
    return ", ".join(filter(None, (code, f"signal {call['signal']}" if call["signal"] else "")))


def _oom(call: Row) -> str:
    if call["oom"] is None:
        return ""
    return str(call["oom"]) + ("" if call["state"] == "killed" else ": memory ran out in it, but that did not end it")
