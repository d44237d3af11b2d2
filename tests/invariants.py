"""What must hold of every ledger, whatever broke while it was written: V1 to V5 and V8 to V10 of the fault matrix."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from chain import breaks

from ledger.projection import COLUMNS, Event, fold
from ledger.sqlite import connect_reader, sqlite3
from machine.errors import IllegalTransitionError
from machine.states import Kind, State
from machine.table import VERDICTS, step

_EVENTS = "SELECT seq, at, kind, state, elapsed_ns, data, samples, chunks FROM event WHERE call_id = ? ORDER BY seq"
_ENDS = frozenset(VERDICTS.values())


def invariants(path: Path) -> int:
    """AssertionError with everything that does not hold; -> how many calls were looked at. The ledger may be live."""
    with closing(connect_reader(path)) as db:
        db.execute("BEGIN")  # one moment of it
        faults = [] if _column(db, "PRAGMA integrity_check") == ["ok"] else ["V8: SQLite finds it damaged"]
        rows = db.execute(f"SELECT id, {', '.join(COLUMNS)} FROM call ORDER BY id").fetchall()
        for number, *values in rows:
            row = dict(zip(COLUMNS, values, strict=True))
            faults += [f"call {number} ({row['uid']}): {fault}" for fault in _call(db, number, row)]
        strays = "SELECT call_id FROM event UNION SELECT call_id FROM sample UNION SELECT call_id FROM log"
        faults += [f"call {number}: no such call" for number in set(_column(db, strays)) - {row[0] for row in rows}]
    faults += [f"V8: the chain of call {call} breaks at event {seq}" for call, seq in breaks(path)]
    assert not faults, "\n".join(faults)
    return len(rows)


def _column(db: sqlite3.Connection, statement: str, *values: object) -> list[Any]:
    return [row[0] for row in db.execute(statement, values)]


def _call(db: sqlite3.Connection, number: int, row: dict[str, Any]) -> list[str]:
    kinds, states = tuple(Kind), tuple(State)
    events = [
        Event(seq, at, kinds[kind], states[state], *rest)
        for seq, at, kind, state, *rest in db.execute(_EVENTS, (number,))
    ]
    log = _log(events)
    folded = [] if log else _folded(events, row)  # what is no legal log cannot be folded
    return [*log, *folded, *_success(row), *_samples(db, number, row), *_durations(events, row)]


def _log(events: list[Event]) -> list[str]:
    ends = sum(event.kind in _ENDS for event in events)
    starts = sum(event.kind is Kind.STARTED for event in events)
    faults = [f"V1: {ends} terminal events"] * (ends > 1) + [f"V5: started {starts} times"] * (starts > 1)
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        faults.append("V2: seq has gaps")
    state = None
    for event in events:
        try:
            state = step(state, event.kind)
        except IllegalTransitionError as error:
            return [*faults, f"V2: event {event.seq}: {error}"]
        if state is not event.state:
            faults.append(f"V2: event {event.seq} says {event.state}, the table {state}")
    return faults


def _folded(events: list[Event], row: dict[str, Any]) -> list[str]:
    folded: dict[str, Any] = {}
    for event in events:
        folded = fold(folded, event)
    return [
        f"V3: {name} is {row[name]!r}, its events make {folded.get(name)!r}"
        for name in COLUMNS
        if folded.get(name) != row[name]
    ]


def _success(row: dict[str, Any]) -> list[str]:
    if row["state"] != State.SUCCESS or row["pruned"]:
        return []
    evidence = json.loads(row["evidence"] or "{}")
    exits = evidence.get("exits") or {}
    faults = [] if row["exit_code"] == 0 and 0 in exits.values() else [f"V4: success by {exits}, {row['exit_code']}"]
    return faults + ["V4: success without a start"] * (not evidence.get("started_at") or row["never_ran"])


def _samples(db: sqlite3.Connection, number: int, row: dict[str, Any]) -> list[str]:
    if row["pruned"]:
        return []
    faults = []
    for table, covered in (("sample", row["samples"]), ("log", row["chunks"])):
        seqs = _column(db, f"SELECT seq FROM {table} WHERE call_id = ? ORDER BY seq", number)
        if seqs != list(range(1, len(seqs) + 1)) or len(seqs) < covered:
            faults.append(f"V9: {table} has {len(seqs)} rows, up to {seqs[-1:]}, and {covered} are covered by events")
    lost = "SELECT data ->> '$.lost' FROM event WHERE call_id = ? AND kind = ? AND data ->> '$.lost' IS NOT NULL"
    return faults + ["V9: a loss of nothing"] * any(n <= 0 for n in _column(db, lost, number, Kind.GAP.code))


def _durations(events: list[Event], row: dict[str, Any]) -> list[str]:
    spent = {name: row[name] for name in COLUMNS if name.endswith("_ns")}
    spent |= {f"event {event.seq}": event.elapsed_ns for event in events}
    return [f"V10: {name} is {span}" for name, span in spent.items() if span is not None and span < 0]
