"""`calls salvage`: whatever has happened to the file, what is good in it is saved, and nothing else."""

from __future__ import annotations

import random
import sqlite3 as plain
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledgers import uid
from salvaging import LIVE, LOG, a_prefix, before, damaged, original, places, save

from ledger.pages import PAGE
from ledger.salvage import Lost, Salvaged

__all__ = ("before", "original")  # fixtures


def test_a_good_ledger_is_saved_whole(original: Path, tmp_path: Path, before: dict[str, Any]) -> None:
    path = damaged(tmp_path, original.read_bytes())
    saved = save(path)
    assert saved.rows == before
    assert saved.report == Salvaged(
        calls=12,
        events=69,
        samples=11,
        output_bytes=20_002 + 8 * 4 + 11,
        uncovered=2,
        identity=True,
        missing_pages=0,
        lost=[],
    )


def flips(pages: int, each: int) -> Iterator[tuple[int, int]]:
    """Bytes of every page: those with which it begins, and some others."""
    choose = random.Random(3)
    for page in range(pages):
        begin = 100 if page == 0 else 0
        yield from ((page, begin + at) for at in (0, 4))
        yield from ((page, choose.randrange(begin, PAGE)) for _ in range(each))


# What may happen to a file.


def test_a_changed_byte_costs_no_more_than_what_stands_on_its_page(
    original: Path, tmp_path: Path, before: dict[str, Any]
) -> None:
    data, choose = original.read_bytes(), random.Random(4)
    held = places(original)
    for page, at in flips(len(data) // PAGE, 1):
        changed = bytearray(data)
        changed[page * PAGE + at] ^= choose.randrange(1, 256)
        short = a_prefix(save(damaged(tmp_path, bytes(changed))), before)
        # A page without rows may be the rest of one that is too long for its page.
        assert short <= held[page] or len(short) <= (not held[page]), (page, at)


@pytest.mark.parametrize("size", [1000, PAGE])
def test_a_page_or_a_part_of_it_that_reads_as_nothing(
    original: Path, tmp_path: Path, before: dict[str, Any], size: int
) -> None:
    data = original.read_bytes()
    held = places(original)
    for page in range(len(data) // PAGE):
        at = page * PAGE
        short = a_prefix(save(damaged(tmp_path, data[:at] + bytes(size) + data[at + size :])), before)
        assert short <= held[page] or len(short) <= (not held[page]), page


def test_a_truncated_file(original: Path, tmp_path: Path, before: dict[str, Any]) -> None:
    data = original.read_bytes()
    held = places(original)
    kept = []
    for size in range(len(data) - 1, 0, -1777):
        saved = save(damaged(tmp_path, data[:size]))
        lost = set().union(*held[size // PAGE :])
        assert a_prefix(saved, before) <= lost | {3}  # which goes on over several pages
        kept.append(saved.report.events if saved.report else 0)
        assert saved.report is None or saved.report.missing_pages == len(data) // PAGE - size // PAGE
    assert kept == sorted(kept, reverse=True)
    assert 60 < kept[0] < 69  # the last page lost its last byte, and with it a row
    assert kept[-1] == 0


HEADERS = {
    "the magic": (0, bytes(16)),
    "the page size": (16, b"\x20\x00"),
    "a page size that is none": (16, b"\x12\x34"),
    "the whole header": (0, bytes(100)),
    "the whole first page": (0, bytes(PAGE)),
    "all that tells a ledger": (60, bytes(12)),
    "noise": (0, random.Random(5).randbytes(PAGE)),
}


@pytest.mark.parametrize("at", HEADERS)
def test_a_bad_header_costs_nothing(original: Path, tmp_path: Path, before: dict[str, Any], at: str) -> None:
    begin, instead = HEADERS[at]
    data = bytearray(original.read_bytes())
    data[begin : begin + len(instead)] = instead
    saved = save(damaged(tmp_path, bytes(data)))
    assert saved.report is not None
    assert (saved.rows, saved.report.lost) == (before, [])


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DROP TABLE {table}" for table in ("call", "state", "kind", "rule", "metric", "lease")),
        *(f"DROP INDEX {index}" for index in ("call_created", "call_key", "call_open")),
        "DROP VIEW calls",
        "DROP TRIGGER event_continues",
        "DELETE FROM call",
        "UPDATE call SET events = 1, state = 'preparing', uid = uid || '?'",
    ],
)
def test_what_is_missing_or_wrong_beside_the_log_costs_nothing(
    original: Path, tmp_path: Path, before: dict[str, Any], statement: str
) -> None:
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(statement)
    saved = save(path)
    assert saved.rows == before
    assert saved.report is not None
    # Without its row nothing says whether a call that has not ended went on.
    doubt = Lost(uid(LIVE), LIVE, 4, 0, 5, "nothing says whether there was one")
    assert saved.report.lost == ([doubt] if "call" in statement.split() else [])


@pytest.mark.parametrize("table", LOG)
def test_without_a_table_of_the_log_the_rest_is_what_proves_itself_alone(
    original: Path, tmp_path: Path, before: dict[str, Any], table: str
) -> None:
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"DROP TABLE {table}")
    saved = save(path)
    short = set(range(3, LIVE + 1))  # the first two are pruned, of samples and of everything
    assert a_prefix(saved, before) == (short if table != "event" else set(before["call"]))
    events = {call: len(rows) for call, rows in saved.rows["event"].items()}
    assert events == (
        {} if table == "event" else {1: 6, 2: 6} | dict.fromkeys(range(3, LIVE), 3) | {LIVE: 3 + (table == "log")}
    )


@pytest.mark.parametrize(
    ("statement", "call", "seq"),
    [
        ("UPDATE event SET at = at + 1 WHERE call_id = 5 AND seq = 3", 5, 3),
        ("UPDATE event SET data = replace(data, 'K', 'L') WHERE call_id = 5 AND seq = 5", 5, 5),
        ("UPDATE event SET seq = 9 WHERE call_id = 5 AND seq = 2", 5, 2),
        ("DELETE FROM event WHERE call_id = 5 AND seq = 6", 5, 6),
        ("DELETE FROM event WHERE call_id = 5", 5, 1),
        ("UPDATE sample SET mem_usage_bytes = 0 WHERE call_id = 5", 5, 4),
        ("DELETE FROM log WHERE call_id = 5", 5, 4),
        ("UPDATE event SET data = replace(data, 'user', 'user ') WHERE call_id = 2 AND kind = 22", 2, 1),
        ("UPDATE event SET data = replace(data, 'user', 'user ') WHERE call_id = 1 AND kind = 22", 1, 4),
        ("UPDATE event SET at = at + 1 WHERE call_id = 2 AND seq = 3", 2, 1),
    ],
)
def test_what_does_not_prove_itself_ends_its_call_there(
    original: Path, tmp_path: Path, before: dict[str, Any], statement: str, call: int, seq: int
) -> None:
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA secure_delete = ON")  # else what was there before is found again
        for trigger in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger[0]}")
        connection.execute(statement)
        connection.execute("VACUUM")
    saved = save(path)
    assert saved.report is not None
    (lost,) = saved.report.lost
    assert (lost.number, lost.call, lost.kept, lost.seq) == (call, uid(call), seq - 1, seq)
    assert lost.of == len(before["event"][call])
    assert a_prefix(saved, before) == {call}
    assert len(saved.rows["event"].get(call, [])) == seq - 1


def test_rows_that_claim_the_place_of_others_do_not_get_it(
    original: Path, tmp_path: Path, before: dict[str, Any]
) -> None:
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        for table in ("event", "sample", "log"):  # the same shape, without keys: found like the rows of the log
            connection.execute(f"CREATE TABLE like_{table} AS SELECT * FROM {table} WHERE call_id = 6")
        connection.execute("UPDATE like_sample SET call_id = 7, pids = 99")
        connection.execute("UPDATE like_log SET call_id = 7, data = x'00'")
        # An event has its id for a rowid; the column is then empty.
        connection.execute("UPDATE like_event SET rowid = id + 1000, call_id = 7")
        connection.execute("UPDATE like_event SET id = NULL")
    assert save(path).rows == before
