"""Drop everything that is derived and make it again from the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ledger.append import histogram_rows
from ledger.examine import KINDS, STATES
from ledger.projection import COLUMNS, UNREADABLE, advance, begin
from ledger.shape import objects, wanted
from ledger.sqlite import DERIVED, connect_reader, connect_writer, explain, scalar, sqlite3, transaction
from ledger.tombstone import PRUNED, Tombstones, decimated_samples
from machine.errors import IllegalTransitionError, LedgerError
from machine.states import Kind, State
from machine.table import step

_EVENTS = (
    "SELECT call_id, id, seq, at, kind, state, elapsed_ns, data, samples, chunks, digest FROM event "
    "ORDER BY call_id, seq"
)
_SAID = f"SELECT call_id FROM event WHERE kind = {PRUNED} AND data -> '$.{{}}' IS NOT NULL"
_OUTLIVING = (
    "CREATE TEMP TABLE outliving AS SELECT * FROM main.histogram "
    f"WHERE call_id IN ({_SAID.format('histogram')} EXCEPT {_SAID.format('events')})"
)
_HISTORY = ("table", "histogram")
_CALL = f"INSERT INTO call (id, {', '.join(COLUMNS)}) VALUES ({', '.join('?' * (1 + len(COLUMNS)))})"
_HISTOGRAM = "INSERT INTO histogram VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Rebuilt(NamedTuple):
    """How many rows of `call` and `histogram` there are now, and from how many events they were made.

    `kept`: rows of `histogram` that stayed as they were, because their samples are pruned.
    """

    calls: int
    events: int
    histogram: int
    kept: int


def rebuild(path: Path, progress: Callable[[int, int], None]) -> Rebuilt:
    """Make `call`, `histogram`, their indexes and the views again, in one transaction: who writes waits meanwhile.

    LedgerError, and nothing is changed, when the log does not fold. `progress`: events done, and all.
    """
    connect_reader(path).close()  # a ledger that is not there must not be made
    with closing(connect_writer(path, derived=False)) as connection, explain(path), transaction(connection, "rebuild"):
        kept = _clear(connection)
        calls, events = _fold(connection, progress)
        return Rebuilt(calls, events, int(scalar(connection, "SELECT count(*) FROM histogram")), kept)


def _clear(connection: sqlite3.Connection) -> int:
    """Empty and exact tables, indexes and views; -> how many rows of `histogram` are kept."""
    if _HISTORY not in objects(connection):
        connection.execute(wanted()[_HISTORY].sql)
    found = objects(connection)
    made = [(kind, name, each) for (kind, name), each in wanted().items() if kind == "view" or each.table in DERIVED]
    connection.execute(_OUTLIVING)
    for kind, name, _ in reversed(made):
        if (kind, name) in found:
            connection.execute(f"DROP {kind} {name}")
    for _, _, each in made:
        connection.execute(each.sql)
    connection.execute("INSERT INTO main.histogram SELECT * FROM temp.outliving")
    kept = int(scalar(connection, "SELECT count(*) FROM temp.outliving"))
    connection.execute("DROP TABLE temp.outliving")
    return kept


def _fold(connection: sqlite3.Connection, progress: Callable[[int, int], None]) -> tuple[int, int]:
    total = int(scalar(connection, "SELECT count(*) FROM event"))
    calls = done = 0
    for call_id, rows in groupby(connection.execute(_EVENTS), itemgetter(0)):
        events = [row[1:] for row in rows]
        row = _row(call_id, events)
        connection.execute(_CALL, (call_id, *(row[name] for name in COLUMNS)))
        tombstones = Tombstones(events)
        if (samples := decimated_samples(events, tombstones)) > tombstones.upto["samples"]:
            connection.executemany(_HISTOGRAM, histogram_rows(connection, call_id, samples))
        calls += 1
        done += len(events)
        progress(done, total)
    return calls, done


def _row(call_id: int, events: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The row of a call. LedgerError when its events are not a call's."""
    row, state = begin(), None
    for expected, event in enumerate(events, 1):
        _, seq, at, kind, stored, elapsed_ns, data, samples, chunks, _ = event
        try:
            if seq != expected:
                raise ValueError("it is missing")
            state = _step(state, KINDS[kind], STATES[stored])
            advance(row, seq, at, KINDS[kind], state, elapsed_ns, data, samples, chunks)
        except (*UNREADABLE, IllegalTransitionError) as error:
            raise LedgerError(
                f"the log does not fold (calls verify): call {call_id}, event {expected}: {error}"
            ) from error
    return row


def _step(state: State | None, kind: Kind, stored: State) -> State:
    after = step(state, kind)
    if after is not stored:
        raise ValueError(f"{kind} leads to {after}, not to {stored}")
    return after
