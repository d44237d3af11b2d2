"""Pruning in tests: doing it, and looking at what is left."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from ledgers import BY, START
from tombstones import wrong

from ledger import retention
from ledger.retention import EVERYTHING, Amount
from ledger.sqlite import connect_reader, connect_writer
from ledger.verify import verify

NOW = START + 10**18
SAMPLES, OUTPUT = frozenset(("samples",)), frozenset(("output",))
COUNTS = {"sample": 1002, "log": 5, "histogram": 720}
"""What the small ledger's ended calls have."""


def prune(path: Path, parts: Iterable[str] = EVERYTHING, before: int = NOW) -> Amount:
    """Prune to the end; -> what was removed."""
    with closing(connect_writer(path)) as connection:
        steps = list(retention.prune(connection, before, parts, BY))
    assert not any(one.damaged for one in steps)
    return steps[-1].removed if steps else Amount()


def rows(path: Path, query: str) -> list[Any]:
    with closing(connect_reader(path)) as connection:
        return connection.execute(query).fetchall()


def left(path: Path, call: str = "state <> 'paused'") -> dict[str, int]:
    """How many rows calls have left."""
    of = f"WHERE call_id IN (SELECT id FROM call WHERE {call})"
    return {table: rows(path, f"SELECT count(*) FROM {table} {of}")[0][0] for table in COUNTS}


def holds(path: Path) -> None:
    """Everything that the ledger still says is proved: by the recipe, and by the program."""
    assert wrong(path) == []
    assert verify(path).findings == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
