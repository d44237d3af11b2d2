"""Is the ledger whole and untouched: everything that can be told from the file itself.

What cannot be told from it alone: that its last events are gone together with all that was derived from them, that
two events of different calls have changed places, that its id is another one. For these a head (`ledger.head`) must
have been kept elsewhere. Rows that no event covers yet are held only by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from ledger.examine import Examination, Finding, Tally
from ledger.head import extends
from ledger.shape import misshapen
from ledger.sqlite import connect_reader, explain, scalar, sqlite3

_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file leads to; even SQLite's message about it may be no text."""
_FIRST, _LAST = -(2**63), 2**63 - 1
_OWN_FAULTS = 10
"""How many faults of the file SQLite is asked for: one page may make thousands."""
_NEXT = "SELECT min(number) FROM ({})".format(
    " UNION ALL ".join(
        f"SELECT min({column}) AS number FROM {table} WHERE {column} >= :first"
        for table, column in (
            ("call", "id"),
            ("event", "call_id"),
            ("sample", "call_id"),
            ("log", "call_id"),
            ("histogram", "call_id"),
        )
    )
)

Progress = Callable[[int, int], None]
"""Is told how many calls have been looked at, and how many there are."""


def _silent(done: int, total: int) -> None:
    pass


class Report(NamedTuple):
    """What `verify` found. `calls`, `events`, `samples`, `output_bytes`: what was checked and holds.

    `uncovered`: rows of samples and output that no event covers yet. `head`: that of the ledger, hexadecimal; None
    where only some calls were looked at. `then`: how many events there were when the head was `against`, None if never.
    """

    calls: int
    events: int
    samples: int
    output_bytes: int
    uncovered: int
    head: str | None
    then: int | None
    findings: list[Finding]


def verify(path: Path, only: Sequence[int] = (), against: bytes = b"", progress: Progress = _silent) -> Report:
    """Check a whole ledger, or the calls `only`: their rows, and the schema. LedgerError when it cannot be opened.

    Sees the ledger at one moment, however long it takes and whoever writes meanwhile.
    """
    with closing(connect_reader(path, cut=True)) as connection:
        with explain(path):
            connection.execute("BEGIN")
        return inspect(connection, only, against, progress)


def head_of(path: Path) -> str:
    """The head of a ledger, hexadecimal. Checks nothing: a head is worth what `verify` says of the ledger."""
    with explain(path), closing(connect_reader(path)) as connection:
        return extends(connection, b"")[0]


def inspect(
    connection: sqlite3.Connection,
    only: Sequence[int] = (),
    against: bytes = b"",
    progress: Progress = _silent,
) -> Report:
    """As `verify`, on a connection that sees one moment."""
    connection.text_factory = _lenient
    tally, head, then = Tally(), None, None
    findings = list(_guarded(misshapen(connection)))
    for call_id in only:
        findings += _calls(connection, tally, call_id, call_id, lambda: None)
    if not only:
        findings += _guarded(_file(connection))
        findings += _guarded(_numbers(connection))
        findings += _calls(connection, tally, _FIRST, _LAST, _ticks(connection, progress))
        try:
            head, then = extends(connection, against)
        except _UNREADABLE as error:
            findings.append(Finding(None, None, f"the events cannot be read: {error}"))
    counts = tally.calls, tally.events, tally.samples, tally.output_bytes, tally.uncovered
    return Report(*counts, head, then, findings)


def _lenient(text: bytes) -> str:
    # What is no UTF-8 must not stop the reading; no digest will hold for it.
    return text.decode("utf-8", "surrogateescape")


def _ticks(connection: sqlite3.Connection, progress: Progress) -> Callable[[], None]:
    try:
        total = int(scalar(connection, "SELECT count(*) FROM call"))
    except _UNREADABLE:
        total = 0  # the findings say it
    done = count(1)
    return lambda: progress(next(done), total)


def _guarded(found: Iterator[str]) -> Iterator[Finding]:
    try:
        for what in found:
            yield Finding(None, None, what)
    except _UNREADABLE as error:
        yield Finding(None, None, f"the file cannot be read: {error}")


def _file(connection: sqlite3.Connection) -> Iterator[str]:
    for (said,) in connection.execute(f"PRAGMA integrity_check({_OWN_FAULTS})"):
        if said != "ok":
            yield f"SQLite says: {' '.join(str(said).split())}"
    for table, *_ in connection.execute("PRAGMA foreign_key_check"):
        yield f"SQLite says: a row of {table} refers to nothing"


def _numbers(connection: sqlite3.Connection) -> Iterator[str]:
    """The ledger's id, and the numbers of its events: from 1 on and without gaps, whatever their calls."""
    identity = scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'")
    try:
        UUID(identity)
    except (AttributeError, TypeError, ValueError):
        yield f"the ledger's id is {identity!r}"
    steps = "SELECT lag(id, 1, 0) OVER (ORDER BY id) AS before, id FROM event"
    events, first, last = connection.execute("SELECT count(*), min(id), max(id) FROM event").fetchone()
    if events and (first, last) != (1, events):
        odd = connection.execute(f"SELECT * FROM ({steps}) WHERE id <> before + 1 LIMIT {_OWN_FAULTS}")
        for before, number in odd:
            yield f"events were removed or renumbered: after id {before} comes {number}"


def _calls(
    connection: sqlite3.Connection, tally: Tally, first: int, last: int, tick: Callable[[], None]
) -> Iterator[Finding]:
    """Go through calls. What cannot be read costs its own call alone: it is looked at by itself, and then the rest."""
    try:
        Examination(connection, tally, 0, -1)
    except _UNREADABLE as error:
        yield Finding(None, None, f"no call can be looked at: {error}")
        return
    while first <= last:
        connection.text_factory = _lenient if first == last else str
        examination = None
        try:
            examination = Examination(connection, tally, first, last)
            for findings in examination.findings():
                yield from findings
                tick()
            return
        except _UNREADABLE as error:
            if first == last:
                yield _unreadable(connection, first, error)
                return
        try:
            call_id = scalar(connection, _NEXT, examination.call_id if examination else first)
        except _UNREADABLE as error:
            yield Finding(None, None, f"nothing can be read from call {first} on: {error}")
            return
        if call_id is None:
            return
        yield from _calls(connection, tally, call_id, call_id, tick)
        first = call_id + 1


def _unreadable(connection: sqlite3.Connection, call_id: int, error: Exception) -> Finding:
    """The first event of a call that cannot be read; without one, it is something else of the call."""
    uid, seq = None, 0
    try:
        uid = scalar(connection, "SELECT uid FROM call WHERE id = ?", call_id)
        for row in connection.execute("SELECT seq, data FROM event WHERE call_id = ? ORDER BY seq", (call_id,)):
            seq = row[0]
    except _UNREADABLE:
        return Finding(uid, seq + 1, f"call {call_id} cannot be read from here on: {error}")
    return Finding(uid, None, f"rows of call {call_id} cannot be read: {error}")
