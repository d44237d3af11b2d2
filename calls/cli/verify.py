"""`calls verify`: is the ledger whole and untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from calls.cli import words
from calls.cli.common import takes_ledger
from calls.cli.progress import Progress
from calls.cli.render import TABLE, Column, emit, formats, put, result, to_json
from machine.errors import CallsError, UsageError

_COLUMNS = (
    Column("CALL", lambda row: words.short(row["call"] or "")),
    Column("SEQ", lambda row: "" if row["seq"] is None else str(row["seq"]), right=True),
    Column("FINDING", lambda row: row["what"], fold=True),
)


@click.command()
@click.argument("calls", nargs=-1, metavar="[CALL...]")
@click.option("--head", is_flag=True, help="Print one digest for the whole ledger, to keep elsewhere; check nothing.")
@click.option("--against", metavar="DIGEST", help="Prove that the ledger extends the one that had this head.")
@formats
@takes_ledger
def command(ledger: Path, form: str, calls: tuple[str, ...], against: str | None, *, head: bool) -> int:
    """Check that the ledger is whole and untouched; with CALLs, only these and the schema.

    Names the first bad event of each damaged call. Exit status: 0 when nothing is found, else 1.

    What no ledger can tell of itself, that its latest calls are gone without a trace, --against tells.
    """
    if sum((bool(calls), head, against is not None)) > 1:
        raise click.UsageError("CALL, --head and --against exclude each other")
    if head:
        from ledger.verify import head_of

        found = head_of(ledger)
        result(form, {"head": found}, found)
        return 0
    report = _report(ledger, calls, _digest(against) if against is not None else None)
    findings = report["findings"]
    if form == "json":
        put(to_json(report, indent=2) + "\n")
    elif form != TABLE:
        emit(form, findings, _COLUMNS, ("call", "seq", "what"))
    else:
        if findings:
            emit(form, findings, _COLUMNS)
        for line in _summary(report):
            put(f"{line}\n")
    return int(not report["ok"])


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError(f"--against: {text!r} is no head: it has 64 hexadecimal digits (calls verify --head)")
    return digest


def _report(ledger: Path, calls: tuple[str, ...], against: bytes | None) -> dict[str, Any]:
    """The object that --json prints."""
    from ledger.read import Reader
    from ledger.verify import verify

    only = []
    if calls:
        with Reader(ledger) as reader:
            only = [reader.resolve(call) for call in calls]
    with Progress("verifying") as progress:
        found = verify(ledger, only, against or b"", progress.show)
    report = found._asdict() | {"findings": [finding._asdict() for finding in found.findings]}
    then = report.pop("then")
    if against is not None:
        report |= {"extends": then is not None and not found.findings, "events_then": then}
        if then is None:
            report["findings"].append(_finding("the ledger does not extend the one that had this head"))
    if not only:
        report |= _containers(ledger, report["findings"])
    return {"ok": not report["findings"], **report}


def _finding(what: str, call: str | None = None) -> dict[str, Any]:
    return {"call": call, "seq": None, "what": what}


def _containers(ledger: Path, findings: list[dict[str, Any]]) -> dict[str, Any]:
    """How many containers there are of this ledger, or why that is not known."""
    from ledger.orphans import orphans

    try:
        with _driver(ledger) as driver:
            first = {leftover.uid: leftover for leftover in driver.leftovers() if leftover.uid}  # (else a runner's own)
            suspects = orphans(ledger, first)
            if suspects:  # it may have been removed just now: look once more
                suspects = sorted(set(suspects) & {leftover.uid for leftover in driver.leftovers()})
    except CallsError as error:
        return {"containers": None, "not_checked": str(error)}
    orphaned = [(uid, first[uid]) for uid in suspects]
    findings += [_finding(f"orphan container {each.container[:12]} ({each.status})", uid) for uid, each in orphaned]
    return {"containers": len(first)}


@contextmanager
def _driver(ledger: Path) -> Iterator[Any]:
    from driver.docker import DockerDriver
    from driver.protocol import Labels
    from driver.pump import Pump
    from ledger.orphans import identity

    with closing(Pump()) as pump, closing(DockerDriver(pump, Labels(identity(ledger), ""))) as driver:
        yield driver


def _summary(report: dict[str, Any]) -> Iterator[str]:
    parts = [_counted(report[f"{word}s"], word) for word in ("call", "event", "sample")]
    parts.append(f"{words.size(report['output_bytes'])} of output")
    found = _counted(len(report["findings"]), "finding") if report["findings"] else "nothing wrong"
    yield f"checked {', '.join(parts)}: {found}"
    if report["uncovered"]:
        yield f"{_counted(report['uncovered'], 'row')} of samples and output, not covered by an event yet"
    if report.get("extends"):
        yield f"it extends the ledger of that head: {report['events_then']} events then, {report['events']} now"
    if "not_checked" in report:
        yield f"containers: not checked ({report['not_checked']})"
    if report["head"]:
        yield f"head {report['head']}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
