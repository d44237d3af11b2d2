"""What is derived can be dropped and made again from the log, to the same bytes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledgers import said, small
from varied import long, varied

from ledger.rebuild import Rebuilt, rebuild
from ledger.sqlite import connect_reader
from ledger.verify import verify
from machine.errors import LedgerError

Make = Callable[[Path], None]
MADE = (small, varied, long)


def none(done: int, total: int) -> None:
    """Nobody watches."""


def derived(path: Path) -> list[Any]:
    """Every byte of what is derived, with its types, and how it is defined."""
    with closing(connect_reader(path)) as db:
        made: list[Any] = db.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        ).fetchall()
        for table in ("call", "histogram"):
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            kept = ", ".join(f"quote({name})" for name in names)
            made += db.execute(f"SELECT {kept} FROM {table} ORDER BY {', '.join(names[:3])}").fetchall()
    return made


def changed(path: Path, script: str) -> None:
    """A change by any other program."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


@pytest.mark.parametrize("make", MADE)
def test_it_is_made_again_to_the_same_bytes(make: Make, ledger: Path) -> None:
    make(ledger)
    before = derived(ledger)
    with closing(connect_reader(ledger)) as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("call", "event", "histogram")]
    made = rebuild(ledger, none)
    assert [made.calls, made.events, made.histogram] == counts
    assert derived(ledger) == before
    assert verify(ledger).findings == []


SPOILT = (
    "DELETE FROM call",
    "DELETE FROM histogram WHERE call_id = 2",
    "UPDATE call SET state = 'success', evidence = NULL, spec = 'x'; UPDATE histogram SET mean = 0 WHERE call_id = 2",
    "INSERT INTO histogram VALUES (99, 1, 1, 1, 1, 1, 1, 1, 1, 1)",
    "DROP VIEW calls; DROP VIEW histogram_point; DROP INDEX call_created; DROP INDEX call_key",
    "DROP VIEW events; CREATE VIEW events AS SELECT 1; DROP TABLE call; CREATE TABLE call (id)",
    "DROP TABLE call",
)


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("make", MADE)
def test_whatever_became_of_it_is_repaired(make: Make, spoil: str, ledger: Path) -> None:
    make(ledger)
    before = derived(ledger)
    changed(ledger, spoil)
    rebuild(ledger, none)
    assert sorted(map(str, derived(ledger))) == sorted(map(str, before))
    assert verify(ledger).findings == []


def test_a_history_that_is_gone_altogether_is_made_again(ledger: Path) -> None:
    small(ledger)
    before = derived(ledger)
    changed(ledger, "DROP TABLE histogram")
    rebuild(ledger, none)
    assert sorted(map(str, derived(ledger))) == sorted(map(str, before))
    assert verify(ledger).findings == []


def test_a_histogram_whose_samples_are_pruned_is_kept_as_it_is(ledger: Path) -> None:
    long(ledger)
    assert rebuild(ledger, none) == Rebuilt(calls=2, events=11, histogram=480, kept=240)
    changed(ledger, "UPDATE histogram SET mean = mean + 1 WHERE call_id = 1 AND bucket = 7")
    assert rebuild(ledger, none).kept == 240
    assert [finding.what for finding in verify(ledger).findings] == [
        "its histogram is not the one that its tombstone names"
    ]


BROKEN = {
    "DELETE FROM event WHERE call_id = 4 AND seq = 2": "call 4, event 2: ",
    "UPDATE event SET state = 5 WHERE call_id = 4 AND seq = 2": "call 4, event 2: ",
    "UPDATE event SET kind = 99 WHERE call_id = 4 AND seq = 3": "call 4, event 3: ",
    "UPDATE event SET data = 'x' WHERE call_id = 4 AND seq = 1": "call 4, event 1: ",
    "UPDATE event SET data = '[]' WHERE call_id = 4 AND seq = 1": "call 4, event 1: ",
    "UPDATE event SET data = 'x' WHERE call_id = 1 AND kind = 22": "malformed JSON",
    "DELETE FROM event WHERE call_id = 4 AND seq = 1": "call 4, event 1: ",
}


@pytest.mark.parametrize("change", BROKEN)
def test_a_log_that_does_not_fold_is_refused_and_nothing_is_changed(change: str, ledger: Path) -> None:
    varied(ledger)
    changed(ledger, f"DROP TRIGGER event_no_update; DROP TRIGGER event_no_delete; {change}")
    before = derived(ledger)
    with pytest.raises(LedgerError, match=BROKEN[change]):
        rebuild(ledger, none)
    assert derived(ledger) == before


def test_no_ledger_is_made(ledger: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        rebuild(ledger, none)
    assert not ledger.exists()


def test_the_command_says_what_it_made(ledger: Path) -> None:
    small(ledger)
    assert said(ledger, "rebuild") == (0, "made 10 calls and 720 rows of history again from 50 events\n", "")
    status, out, err = said(ledger, "rebuild", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"calls": 10, "events": 50, "histogram": 720, "kept": 0}


def test_the_command_refuses_in_one_line(ledger: Path) -> None:
    varied(ledger)
    changed(ledger, "DROP TRIGGER event_no_update; UPDATE event SET kind = 99 WHERE call_id = 4 AND seq = 3")
    status, out, err = said(ledger, "rebuild")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("calls: the log does not fold (calls verify): call 4, event 3: ")
