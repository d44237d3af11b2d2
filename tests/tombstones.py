"""Pruned ledgers, checked by the words of docs/ledger.md and by no code of the program's own.

As tests/chain.py, for ledgers in which something was removed on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The same build as the program's: two of them in one process would undo each other's locks.
from ledger.sqlite import sqlite3

PRUNED = 22
TABLES = {
    "samples": "SELECT {} FROM sample WHERE call_id = ? AND seq > ? AND seq <= ? ORDER BY seq",
    "output": (
        "SELECT seq, at, stream, offset_bytes, data FROM log WHERE call_id = ? AND seq > ? AND seq <= ? ORDER BY seq"
    ),
}
HISTOGRAM = (
    "SELECT metric, bucket, t_first, t_last, count, min, mean, max, last FROM histogram "
    "WHERE call_id = ? ORDER BY metric, bucket"
)


def _sum(rows: Sequence[Sequence[Any]]) -> str:
    total = hashlib.sha256()
    for row in rows:
        plain = [hashlib.sha256(one).hexdigest() if isinstance(one, bytes) else one for one in row]
        total.update(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()


def wrong(path: Path) -> list[str]:
    """What does not hold in a ledger: one line each, at most one a call."""
    db = sqlite3.connect(path)
    try:
        calls = db.execute("SELECT id, uid FROM call").fetchall()
        return [f"{uid}: {what}" for call, uid in calls if (what := _wrong(db, call, uid))]
    finally:
        db.close()


def _wrong(db: sqlite3.Connection, call: int, uid: str) -> str:
    events = db.execute("SELECT * FROM event WHERE call_id = ? ORDER BY seq", (call,)).fetchall()
    said = {event[2]: json.loads(event[7]) for event in events if event[4] == PRUNED}
    emptied = max((seq for seq, one in said.items() if "events" in one), default=0)
    return _log(db, call, uid, events, said, emptied) or _derived(db, call, events, said, emptied)


def _log(
    db: sqlite3.Connection, call: int, uid: str, events: list[Any], said: dict[int, dict[str, Any]], emptied: int
) -> str:
    gone = {part: {k: v for one in said.values() for k, v in one.get(part, {}).items()} for part in TABLES}
    names = ", ".join(row[1] for row in db.execute("PRAGMA table_info(sample)") if row[1] != "call_id")
    before, last = bytes(32), {"samples": 0, "output": 0}
    for _, _, seq, at, kind, state, elapsed, data, samples, chunks, digest in events:
        logged = []
        for (part, statement), upto in zip(TABLES.items(), (samples, chunks), strict=True):
            rows = db.execute(statement.format(names), (call, last[part], upto)).fetchall()
            if str(seq) in gone[part] and rows:
                return f"event {seq}: {part} are there, and a tombstone names them"
            logged.append(gone[part].get(str(seq), _sum(rows)))
            last[part] = upto
        row = [uid, seq, at, kind, state, elapsed, data, samples, chunks, *logged]
        text = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
        whole = seq > emptied or kind == PRUNED
        if data != "{}" if not whole else hashlib.sha256(before + text).digest() != digest:
            return f"event {seq}: its digest does not hold, or it is not empty"
        before = digest
    return ""


def _derived(
    db: sqlite3.Connection, call: int, events: list[Any], said: dict[int, dict[str, Any]], emptied: int
) -> str:
    for seq, one in said.items():
        earlier = [(event[0], *event[2:7], *event[8:]) for event in events if event[2] < seq]
        if "events" in one and one["events"] != _sum(earlier):
            return f"tombstone {seq}: it names other events"
    rows = db.execute(HISTOGRAM, (call,)).fetchall()
    named = [one["histogram"] for one in said.values() if "histogram" in one]
    if emptied:
        return "its histogram outlived its events" if rows else ""
    return "its histogram is not the one that was named" if named and _sum(rows) != named[-1] else ""
