"""Every single change that plain SQL can make to what is recorded is found; some of them only by a head."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from varied import LAST, LIVE, long, varied

from ledger.examine import Finding
from ledger.sqlite import connect_reader, sqlite3, statements
from ledger.verify import inspect

Db = sqlite3.Connection
KEYS = {
    "event": ("id",),
    "sample": ("call_id", "seq"),
    "log": ("call_id", "seq"),
    "call": ("id",),
    "histogram": ("call_id", "metric", "bucket"),
}
VALUES = (
    "NULL",
    "{0} + 1",
    "-1",
    "'x'",
    "x'00'",
    "{0} || ' '",
    "'{{}}'",
    "CAST(x'ff' AS TEXT)",
)
"""What a cell is changed to. What its column does not take is no change."""
EVERY = 48
"""Of the long series every so many-th row is tried; all other rows are."""


def loaded(path: Path) -> Db:
    """A ledger in memory, its triggers dropped: nothing holds back a change."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    with closing(connect_reader(path)) as source:
        source.backup(db)
    assert inspect(db).findings == []
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    return db


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Db]:
    """A call of every kind."""
    path = tmp_path_factory.mktemp("varied") / "ledger.db"
    varied(path)
    with closing(loaded(path)) as db:
        yield db


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Db]:
    """Calls with histograms."""
    path = tmp_path_factory.mktemp("long") / "ledger.db"
    long(path)
    with closing(loaded(path)) as db:
        yield db


@contextmanager
def undone(db: Db) -> Iterator[None]:
    """What is done inside is undone."""
    db.execute("SAVEPOINT change")
    try:
        yield
    finally:
        db.execute("ROLLBACK TO change")
        db.execute("RELEASE change")


def found(db: Db) -> list[Finding]:
    """What is found beside the triggers that are missing."""
    return [finding for finding in inspect(db).findings if not finding.what.startswith("the trigger ")]


def keys(db: Db, table: str) -> list[tuple[Any, ...]]:
    """The keys of the rows to try. Rows that no event covers yet are not held by anything but their numbers."""
    names = ", ".join(KEYS[table])
    covered = {"sample": "samples", "log": "chunks"}.get(table)
    where = f"seq <= (SELECT max({covered}) FROM event WHERE call_id = {table}.call_id)" if covered else "true"
    rows = db.execute(f"SELECT {names} FROM {table} WHERE {where} ORDER BY {names}").fetchall()
    return [row for number, row in enumerate(rows) if len(rows) < 100 or number % EVERY == 0]


def where(table: str) -> str:
    return "WHERE " + " AND ".join(f"{name} = ?" for name in KEYS[table])


def row(db: Db, table: str, key: Sequence[Any]) -> list[Any]:
    # Text as bytes, and with its type: 'x' and x'78' are not the same, 1 and 1.0 are not, either.
    kept = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in columns(db, table))
    return db.execute(f"SELECT {kept} FROM {table} {where(table)}", key).fetchall()


def columns(db: Db, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def change(db: Db, table: str, statement: str, key: Sequence[Any]) -> bool:
    """Whether the statement changes the row: constraints may refuse it."""
    before = row(db, table, key)
    try:
        db.execute(statement, key)
    except (sqlite3.IntegrityError, sqlite3.DataError):
        return False
    return row(db, table, key) != before


def cells(db: Db, table: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for key, column, value in itertools.product(keys(db, table), columns(db, table), VALUES):
        yield f"UPDATE {table} SET {column} = {value.format(column)} {where(table)}", key


def tried(db: Db, table: str, changes: Iterator[tuple[str, tuple[Any, ...]]]) -> int:
    """Make one change after the other, each for itself; -> how many there were. Each must be found."""
    unseen, count = [], 0
    for statement, values in changes:
        with undone(db):
            if change(db, table, statement, values):
                count += 1
                if not found(db):
                    unseen.append((statement, values))
    assert unseen == []
    return count


def test_nothing_is_found_where_nothing_was_changed(db: Db) -> None:
    assert found(db) == []


@pytest.mark.parametrize(("table", "least"), [("event", 700), ("sample", 100), ("log", 50), ("call", 900)])
def test_every_change_of_a_value_is_found(db: Db, table: str, least: int) -> None:
    assert tried(db, table, cells(db, table)) >= least


@pytest.mark.parametrize(("table", "least"), [("sample", 100), ("histogram", 150)])
def test_every_change_of_a_series_is_found(history: Db, table: str, least: int) -> None:
    assert tried(history, table, cells(history, table)) >= least


@pytest.mark.parametrize("table", KEYS)
def test_every_deletion_of_a_row_is_found(db: Db, history: Db, table: str) -> None:
    for each in (db, history):
        deletions = ((f"DELETE FROM {table} {where(table)}", key) for key in keys(each, table))
        assert tried(each, table, deletions) == len(keys(each, table))


def heads(db: Db) -> str | None:
    return inspect(db).head


AWAY = 10**6
"""A number that no row has."""


def swapped(db: Db, table: str, names: Sequence[str], one: Sequence[Any], other: Sequence[Any]) -> None:
    """Two rows exchange the values by which they are known."""
    assignment, condition = (word.join(f"{name} = ?" for name in names) for word in (", ", " AND "))
    for old, new in ((one, [AWAY] * len(names)), (other, one), ([AWAY] * len(names), other)):
        assert db.execute(f"UPDATE {table} SET {assignment} WHERE {condition}", (*new, *old)).rowcount == 1


@pytest.mark.parametrize("table", ["event", "sample", "log"])
def test_two_rows_that_change_places_are_found(db: Db, table: str) -> None:
    known = keys(db, table)
    if table == "event":
        known = db.execute("SELECT call_id, seq FROM event ORDER BY call_id, seq").fetchall()
    pairs = list(itertools.combinations(known, 2))
    for one, other in pairs:
        with undone(db):
            swapped(db, table, ("call_id", "seq"), one, other)
            assert found(db), (one, other)
    assert len(pairs) > 5


def test_two_events_that_change_places_in_the_order_of_all_are_found_by_the_head_at_least(db: Db) -> None:
    before, alone = heads(db), 0
    rows = db.execute("SELECT id, call_id FROM event ORDER BY id").fetchall()
    for (one, call), (other, another) in itertools.pairwise(rows):
        with undone(db):
            swapped(db, "event", ("id",), [one], [other])
            assert heads(db) != before
            if not found(db):
                assert call != another
                alone += 1
    assert alone > 0


@pytest.mark.parametrize("table", KEYS)
def test_every_row_that_is_written_twice_is_found(db: Db, history: Db, table: str) -> None:
    count = 0
    for each in (db, history):
        for key in keys(each, table):
            for changed in copies(each, table):
                names = [changed.get(name, name) for name in columns(each, table)]
                with undone(each):
                    each.execute(f"INSERT INTO {table} SELECT {', '.join(names)} FROM {table} {where(table)}", key)
                    assert found(each), (key, changed)
                    count += 1
    assert count >= 9


def copies(db: Db, table: str) -> list[dict[str, str]]:
    """What a copy of a row must have of its own. Samples and output of the live call may go on, and no others."""
    if table == "call":
        return [{"id": str(AWAY), "uid": "'other'", "idempotency_key": "NULL"}]
    if table == "histogram":
        return [{"call_id": str(AWAY)}, {"bucket": "bucket + 1000"}, {"metric": "metric + 5"}]
    calls = [
        number for (number,) in db.execute("SELECT id FROM call ORDER BY id") if table == "event" or number != LIVE
    ]
    own = {"id": f"{AWAY}"} if table == "event" else {}
    last = f"(SELECT coalesce(max(seq), 0) + 1 FROM {table} WHERE call_id = {{0}})"
    return [{**own, "call_id": str(number), "seq": last.format(number)} for number in (*calls, AWAY)]


def test_a_call_that_is_deleted_altogether_is_found_and_the_last_one_by_the_head(db: Db) -> None:
    before = heads(db)
    for (number,) in db.execute("SELECT id FROM call").fetchall():
        with undone(db):
            for table in KEYS:
                db.execute(f"DELETE FROM {table} WHERE {'id' if table == 'call' else 'call_id'} = ?", (number,))
            assert bool(found(db)) == (number != LAST)
            assert inspect(db, against=bytes.fromhex(before or "")).then is None


def test_another_id_of_the_ledger_is_found_by_the_head(db: Db) -> None:
    before = heads(db)
    with undone(db):
        db.execute("UPDATE meta SET value = '00000000-0000-4000-8000-000000000000' WHERE key = 'ledger'")
        assert found(db) == []
        assert heads(db) != before
    for statement in ("DELETE FROM meta", "UPDATE meta SET value = 'x'", "UPDATE meta SET key = 'x'"):
        with undone(db):
            db.execute(statement)
            assert found(db)[0].what.startswith("the ledger's id is ")


def test_rows_that_no_event_covers_yet_are_counted_and_held_by_their_numbers(db: Db) -> None:
    assert inspect(db).uncovered == 3
    with undone(db):
        db.execute("DELETE FROM sample WHERE call_id = ? AND seq = 2", (LIVE,))
        assert [finding.what for finding in found(db)] == [
            "rows of sample are missing after number 1, and no event covers them yet"
        ]


# Wrong types: a schema that lets everything in, as writable_schema makes it.


@pytest.fixture(scope="module")
def loose(db: Db) -> Iterator[Db]:
    """The same rows, in tables without types and conditions."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as loose:
        for (statement,) in db.execute("SELECT sql FROM sqlite_master WHERE type = 'table'"):
            plain = re.sub(
                r" CHECK \((?:[^()]|\([^()]*\))*\)| STRICT| NOT NULL|\b(INTEGER|TEXT|REAL|BLOB)\b(?! +PRIMARY)",
                "",
                statement,
            )
            loose.execute(re.sub(r"STRICT,? *", "", plain))
        for statement in statements(files("ledger").joinpath("schema.sql").read_text(encoding="utf-8")):
            if "CREATE VIEW" in statement:
                loose.execute(statement)
        for table in (*KEYS, "meta", "state", "kind", "rule", "metric", "lease"):
            for values in db.execute(f"SELECT * FROM {table}"):
                loose.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        yield loose


def others(db: Db) -> list[Finding]:
    """What is found beside what is wrong with the schema."""
    return [finding for finding in inspect(db).findings if not re.match("the (table|index|trigger) ", finding.what)]


WRONG = (
    "NULL",
    "x'ff00'",
    "'text'",
    "CAST(x'ff' AS TEXT)",
    "1.5",
    "9223372036854775807",
    "'[1]'",
    "'{\"uid\":[]}'",
    "-1",
)


@pytest.mark.parametrize("table", KEYS)
def test_a_value_of_any_type_anywhere_is_a_finding_and_no_more(loose: Db, table: str) -> None:
    assert others(loose) == []
    count = 0
    for key, column, value in itertools.product(keys(loose, table)[::4], columns(loose, table), WRONG):
        with undone(loose):
            if change(loose, table, f"UPDATE {table} SET {column} = {value} {where(table)}", key):
                count += 1
                assert others(loose), (key, column, value)
    assert count >= 40 or table == "histogram"


# The schema.


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Db]:
    """A ledger as it is, triggers and all."""
    varied(tmp_path / "ledger.db")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        with closing(connect_reader(tmp_path / "ledger.db")) as source:
            source.backup(db)
        yield db


def test_whatever_of_the_schema_is_dropped_is_named(whole: Db) -> None:
    dropped = 0
    listed = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
    for kind, name in whole.execute(listed).fetchall():
        with undone(whole):
            whole.execute(f"DROP {kind} {name}")
            assert f"the {kind} {name} is missing" in [finding.what for finding in inspect(whole).findings]
            dropped += 1
    assert dropped >= 30


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "CREATE TRIGGER extra AFTER INSERT ON call BEGIN DELETE FROM lease; END",
            "the trigger extra is not of the schema",
        ),
        ("UPDATE rule SET target = 5 WHERE kind = 1", "the table rule is not that of the program"),
        ("DELETE FROM metric WHERE code = 16", "the table metric is not that of the program"),
        ("INSERT INTO kind VALUES (99, 'other')", "the table kind is not that of the program"),
        ("UPDATE state SET terminal = 0 WHERE code = 9", "the table state is not that of the program"),
        ("DROP VIEW calls; CREATE VIEW calls AS SELECT 1", "the view calls is not that of the schema"),
    ],
)
def test_a_law_or_a_schema_of_ones_own_is_found(whole: Db, statement: str, what: str) -> None:
    for part in statement.split("; ") if "VIEW" in statement else [statement]:
        whole.execute(part)
    assert [finding.what for finding in inspect(whole).findings] == [what]
