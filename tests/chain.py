"""The digest chain, checked by the recipe in docs/ledger.md and by no code of the program's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The same build as the program's: two of them in one process would undo each other's locks.
from ledger.sqlite import sqlite3


def _json(values: Sequence[Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


def _rows(db: sqlite3.Connection, columns: str, table: str, call: int, after: int, to: int) -> str:
    where = "call_id = ? AND seq > ? AND seq <= ? ORDER BY seq"
    rows = db.execute(f"SELECT {columns} FROM {table} WHERE {where}", (call, after, to))
    plain = ([hashlib.sha256(one).hexdigest() if isinstance(one, bytes) else one for one in row] for row in rows)
    return hashlib.sha256(b"".join(_json(row) + b"\n" for row in plain)).hexdigest()


def breaks(path: Path, only: str = "%") -> list[tuple[int, int]]:
    """Where the chain does not hold: (call, seq) of the first event of each call with a wrong digest.

    `only`: the calls to look at, a pattern of LIKE for the uid.
    """
    db, found = sqlite3.connect(path), []
    metrics = ", ".join(row[1] for row in db.execute("PRAGMA table_info(sample)") if row[1] != "call_id")
    output = "seq, at, stream, offset_bytes, data"
    for call, uid in db.execute("SELECT id, uid FROM call WHERE uid LIKE ?", (only,)).fetchall():
        before, samples, chunks = bytes(32), 0, 0
        order = "SELECT * FROM event WHERE call_id = ? ORDER BY seq"
        for _, _, seq, at, kind, state, elapsed, data, upto, to, digest in db.execute(order, (call,)).fetchall():
            logged = _rows(db, metrics, "sample", call, samples, upto), _rows(db, output, "log", call, chunks, to)
            row = _json([uid, seq, at, kind, state, elapsed, data, upto, to, *logged])
            if hashlib.sha256(before + row).digest() != digest:
                found.append((call, seq))
                break
            before, samples, chunks = digest, upto, to
    db.close()
    return found
