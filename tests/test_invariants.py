"""The helper that everybody leans on can fail: each invariant is broken once, by hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from conducting import Stage
from invariants import invariants

from driver.scripted import exits, writes
from ledger.sqlite import sqlite3
from machine.samples import Sample

TERMINAL = "kind BETWEEN 7 AND 11"
TWICE = (
    "INSERT INTO event SELECT id + 100, call_id, seq + 100, at, kind, state, elapsed_ns, data, samples, chunks, digest "
    "FROM event WHERE "
)


@pytest.fixture
def whole(ledger: Path) -> Path:
    """The ledger of one call that succeeded."""
    steps = writes(b"hello"), exits(0, after=3)
    with Stage(ledger, *steps, samples=[Sample(mem_usage_bytes=1)] * 3) as stage:
        stage.conduct()
    return ledger


def test_a_whole_ledger_holds(whole: Path) -> None:
    assert invariants(whole) == 1


@pytest.mark.parametrize(
    ("name", "statements"),
    [
        ("V1", [TWICE + TERMINAL]),
        ("V2", ["DELETE FROM event WHERE seq = 2"]),
        ("V2", ["UPDATE event SET state = 2 WHERE seq = 2"]),
        ("V3", ["UPDATE call SET reason = 'lost'"]),
        ("V4", [f"UPDATE event SET data = json_set(data, '$.evidence.exits', json('{{\"die\":1}}')) WHERE {TERMINAL}",
                "UPDATE call SET evidence = json_set(evidence, '$.exits', json('{\"die\":1}'))"]),
        ("V4", [f"UPDATE event SET data = json_remove(data, '$.evidence.started_at') WHERE {TERMINAL}",
                "UPDATE call SET evidence = json_remove(evidence, '$.started_at')"]),
        ("V5", [TWICE + "kind = 2"]),
        ("V8", ["UPDATE log SET data = x'00'"]),
        ("V8", ["UPDATE sample SET mem_usage_bytes = 2 WHERE seq = 2"]),
        ("V9", ["DELETE FROM sample WHERE seq = 2"]),
        ("V10", ["UPDATE call SET running_ns = -1"]),
        ("no such call", ["DELETE FROM call"]),
    ],
)  # fmt: skip
def test_each_can_be_broken(whole: Path, name: str, statements: list[str]) -> None:
    with closing(sqlite3.connect(whole)) as db, db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
    with pytest.raises(AssertionError, match=rf"{name}\b"):
        invariants(whole)
