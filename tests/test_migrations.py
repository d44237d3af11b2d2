"""Ledgers of earlier versions: migrated whole or not at all, they say what they have always said.

versions/N holds ledgers written by the program whose schema was version N, and what each of them says (`record.py`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from ledgers import OWNER, Call, said, small
from running import until

from calls import identity
from ledger import lease, sqlite
from ledger.failpoint import FailpointError
from ledger.ledger import Ledger
from ledger.projection import COLUMNS, Event, fold
from ledger.read import Reader
from ledger.sqlite import SCHEMA_VERSION, connect_reader, connect_writer, sqlite3, transaction
from machine.errors import LedgerError
from machine.states import Kind, State

VERSIONS = Path(__file__).parent / "versions"
KEPT = {1: 4}
"""How many ledgers of each version are kept: none may go missing."""
LIMIT = 60
OPEN = "import sys; from pathlib import Path; from ledger.sqlite import connect_writer as open; open(Path(sys.argv[1]))"


def kept(version: object = "*") -> list[Path]:
    return sorted(VERSIONS.glob(f"{version}/*.json"))


def unpack(source: Path, folder: Path) -> Path:
    """Put a kept ledger into a folder, with its -wal if it has one."""
    for file in source.parent.glob(f"{source.stem}.db*.gz"):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return folder / f"{source.stem}.db"


@pytest.fixture(params=kept(), ids=lambda source: f"{source.parent.name}-{source.stem}")
def source(request: pytest.FixtureRequest) -> Path:
    """Each of the kept ledgers."""
    found: Path = request.param
    return found


@pytest.fixture
def old(source: Path, tmp_path: Path) -> Path:
    """A copy of each of them."""
    return unpack(source, tmp_path)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A copy of the one in which calls are still open, and whose end is only in its -wal."""
    return unpack(VERSIONS / "1" / "unfinished.json", tmp_path)


def rows(path: Path, query: str, *values: object) -> list[Any]:
    with closing(connect_reader(path)) as connection:
        return connection.execute(query, values).fetchall()


def logged(connection: sqlite3.Connection, call: int) -> Iterator[Event]:
    columns = "seq, at, kind, state, elapsed_ns, data, samples, chunks"
    kinds, states = tuple(Kind), tuple(State)
    for row in connection.execute(f"SELECT {columns} FROM event WHERE call_id = ? ORDER BY seq", (call,)).fetchall():
        yield Event(row[0], row[1], kinds[row[2]], states[row[3]], *row[4:])


def folded(connection: sqlite3.Connection, call: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for event in logged(connection, call):
        row = fold(row, event)
    return row


def shape(path: Path) -> dict[str, Any]:
    """Everything that SQLite tells of the tables, indexes, triggers and views of a file, and the law it carries."""
    with closing(sqlite3.connect(path)) as connection:

        def ask(query: str, *values: object) -> list[Any]:
            return connection.execute(query, values).fetchall()

        objects = ask("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")
        tables = [name for kind, name, *_ in objects if kind in ("table", "view")]
        law = {table: ask(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("state", "kind", "rule", "metric")}
        pragmas = ("application_id", "user_version", "journal_mode", "auto_vacuum", "page_size")
        return {
            "objects": objects,
            "columns": {table: ask("SELECT * FROM pragma_table_xinfo(?)", table) for table in tables},
            "indexes": {table: ask("SELECT name, * FROM pragma_index_list(?) ORDER BY 1", table) for table in tables},
            "kinds": ask("SELECT * FROM pragma_table_list WHERE schema = 'main' ORDER BY name"),
            "pragmas": {pragma: ask(f"PRAGMA {pragma}") for pragma in pragmas},
            **law,
        }


def dump(path: Path) -> list[Any]:
    """The whole content of a file, its version included, as no code of this program's sees it."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        tables = [name for kind, name, _ in found if kind == "table"]
        content = [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]
        return [connection.execute("PRAGMA user_version").fetchall(), found, content]


# What they say.


def test_every_ledger_that_was_kept_is_still_there() -> None:
    assert {version: len(kept(version)) for version in KEPT} == KEPT
    assert len(kept()) == sum(KEPT.values())
    assert set(KEPT) == set(range(1, SCHEMA_VERSION)), (
        "before a schema changes, ledgers of it are to be kept: record.py"
    )


def test_an_old_ledger_says_what_it_has_always_said(source: Path, old: Path) -> None:
    told = json.loads(source.read_text(encoding="utf-8"))
    with closing(connect_reader(old)) as connection:
        cursor = connection.execute("SELECT * FROM call ORDER BY id")
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        assert [{name: row[name] for name in before} for row, before in zip(found, told["call"], strict=True)] == told[
            "call"
        ]
        for row in found:
            assert folded(connection, row["id"]) == {name: row[name] for name in COLUMNS}
    assert {table: rows(old, f"SELECT count(*) FROM {table}")[0][0] for table in told["rows"]} == told["rows"]
    log = b"".join(digest for (digest,) in rows(old, "SELECT digest FROM event ORDER BY id"))
    points = rows(old, "SELECT * FROM histogram ORDER BY call_id, metric, bucket")
    assert hashlib.sha256(log).hexdigest() == told["log"]
    assert hashlib.sha256(json.dumps(points).encode()).hexdigest() == told["histogram"]
    assert rows(old, "SELECT value FROM meta WHERE key = 'ledger'") == [(told["ledger"],)]
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]
    assert breaks(old) == []


def test_a_migrated_ledger_is_shaped_like_a_new_one(old: Path, tmp_path: Path) -> None:
    connect_writer(old).close()
    connect_writer(tmp_path / "new").close()
    assert shape(old) == shape(tmp_path / "new")


def test_a_migrated_ledger_is_written_like_a_new_one(old: Path) -> None:
    with Ledger(old) as ledger:
        Call(ledger, 999).start().write(1, 0, b"out").sample(0.5, 1024)
    assert breaks(old) == []
    assert rows(old, "SELECT state, events FROM call ORDER BY id DESC LIMIT 1") == [("running", 3)]


def test_views_that_people_have_added_stay(unfinished: Path) -> None:
    with closing(sqlite3.connect(unfinished)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT uid FROM calls JOIN call USING (uid)")
        connection.execute("CREATE VIEW stale AS SELECT * FROM a_table_that_is_gone")
        connection.commit()
    assert len(rows(unfinished, "SELECT * FROM mine")) == 2
    assert rows(unfinished, "SELECT sql FROM sqlite_master WHERE name = 'stale'")


def test_what_was_tampered_with_is_not_mended(unfinished: Path) -> None:
    with closing(sqlite3.connect(unfinished)) as connection:
        connection.execute("UPDATE call SET state = 'success', gaps = 7 WHERE id = 1")
        connection.commit()
    assert rows(unfinished, "SELECT state, gaps FROM call WHERE id = 1") == [("success", 7)]


# Who conducts what is not settled.


def test_whoever_conducts_an_open_call_has_a_lease_in_the_migrated_ledger(unfinished: Path) -> None:
    found = rows(unfinished, "SELECT * FROM lease")
    ((uid, data, latest),) = rows(
        unfinished,
        "SELECT call.runner, data -> 'owner', (SELECT max(at) FROM event WHERE call_id = call.id) "
        "FROM call JOIN event ON call_id = call.id WHERE seq = 1 ORDER BY call.id DESC LIMIT 1",
    )
    owner = json.loads(data)
    assert found == [(uid, owner["host"], owner["boot"], owner["pid"], owner["pid_started"], 0, latest)]
    with closing(connect_reader(unfinished)) as connection:
        assert [one.lease for one in lease.unsettled(connection)] == [lease.Lease(*found[0])] * 2


def test_settled_calls_leave_no_lease(tmp_path: Path) -> None:
    old = unpack(VERSIONS / "1" / "local.json", tmp_path)
    assert rows(old, "SELECT count(*) FROM lease") == [(0,)]


@pytest.mark.parametrize("data", ["no json", "{}", "[]", '{"owner":{"pid":"x","boot":"b","host":"h"}}'])
def test_a_call_whose_owner_cannot_be_read_has_no_lease_and_the_ledger_opens(unfinished: Path, data: str) -> None:
    with closing(sqlite3.connect(unfinished)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET data = ? WHERE seq = 1", (data,))
        connection.commit()
    assert rows(unfinished, "SELECT count(*) FROM lease") == [(0,)]


# Crashes. The failpoints are listed by the program itself: a step of tomorrow is covered tomorrow.


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Has something called with the name of each failpoint that is passed."""

    def arm(reach: Callable[[str], None]) -> None:
        monkeypatch.setattr("ledger.migrations.reach", reach)
        monkeypatch.setattr("ledger.sqlite.reach", reach)

    return arm


@pytest.fixture
def points(tmp_path: Path, at: Callable[..., None]) -> list[str]:
    """Every place in a migration where it can be made to fail."""
    (tmp_path / "traced").mkdir()
    found: list[str] = []
    at(found.append)
    connect_writer(unpack(VERSIONS / "1" / "unfinished.json", tmp_path / "traced")).close()
    at(lambda _: None)
    assert found[0] == "migrate.begun"
    assert found[-2:] == ["migrate.written", "migrate.durable"]
    assert len(set(found)) == len(found) > 20
    return found


def survives(path: Path, fail: Callable[[str], None], points: list[str]) -> None:
    """Fail at every place: what is there then is the old ledger, whole; opened again, it is the new one, whole."""
    files = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
    before = dump(path)
    for point in points:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        for file, content in files.items():
            file.write_bytes(content)
        fail(point)
        after = dump(path)
        assert (after == before) is (point != "migrate.durable"), point
        connect_writer(path).close()
        assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
        if point == points[0]:
            whole = dump(path)
        assert dump(path) == whole, point
        assert breaks(path) == []


def test_a_migration_that_fails_at_any_statement_leaves_the_old_ledger(
    unfinished: Path, points: list[str], at: Callable[..., None]
) -> None:
    def fail(point: str) -> None:
        at(partial(fail_at, point, FailpointError()))
        with pytest.raises(FailpointError):
            connect_writer(unfinished)
        at(lambda _: None)

    survives(unfinished, fail, points)


def fail_at(point: str, error: Exception, reached: str) -> None:
    if reached == point:
        raise error


def test_a_migration_killed_at_any_statement_leaves_the_old_ledger(unfinished: Path, points: list[str]) -> None:
    def fail(point: str) -> None:
        words = [sys.executable, "-c", OPEN, str(unfinished)]
        done = subprocess.run(words, env=os.environ | {"CALLS_FAILPOINT": f"{point}:kill9"}, check=False)
        assert done.returncode == -9

    survives(unfinished, fail, points)


def test_a_migration_without_room_is_refused_in_one_line(unfinished: Path, at: Callable[..., None]) -> None:
    at(partial(fail_at, "migrate.written", sqlite3.OperationalError("database or disk is full")))
    for open_it in (connect_writer, connect_reader):
        with pytest.raises(LedgerError, match=r"^cannot use .*the disk is full; make room and try again\)$"):
            open_it(unfinished)


# Two at once.


def test_of_two_that_open_an_old_ledger_one_migrates_it_and_the_other_waits(
    unfinished: Path, at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    versions, version = [], sqlite._version

    def noted(connection: Any, path: Path) -> int:
        versions.append(version(connection, path))
        return versions[-1]

    monkeypatch.setattr(sqlite, "_version", noted)

    def hold(name: str) -> None:
        reached.append(name)
        begun.set()
        assert go_on.wait(LIMIT)

    at(hold)
    threads = [threading.Thread(target=lambda: connect_writer(unfinished).close()) for _ in range(2)]
    threads[0].start()
    assert begun.wait(LIMIT)
    threads[1].start()
    until(lambda: versions[:2] == [1, 1], "the second to see that it is old")
    go_on.set()
    for thread in threads:
        thread.join(LIMIT)
    assert (reached.count("migrate.begun"), reached.count("migrate.0")) == (2, 1)
    assert rows(unfinished, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_processes_that_open_an_old_ledger_at_once_all_can(unfinished: Path) -> None:
    words = [sys.executable, "-c", OPEN, str(unfinished)]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(6)]
    assert [process.communicate(timeout=LIMIT)[1] for process in processes] == [b""] * 6
    assert breaks(unfinished) == []


def test_an_old_ledger_that_is_held_locked_is_refused_in_one_line(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sqlite.BUSY_MS", 1)
    monkeypatch.setattr("ledger.sqlite._WRITER", ("PRAGMA busy_timeout = 1",))
    locked = pytest.raises(LedgerError, match=r"^cannot use .*another process holds it locked; try again\)$")
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as other, transaction(other, "other"), locked:
        connect_reader(unfinished)


# Reading on the ground of others.


READING = (
    ["ps", "-a"],
    ["show", "@last"],
    ["events", "@last"],
    ["stats", "@last"],
    ["logs", "@last"],
    ["sql", "SELECT count(*) FROM event"],
    ["sql", "SELECT recovered FROM call"],
)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_command_that_reads_works_on_an_old_ledger(old: Path, words: list[str]) -> None:
    assert said(old, *words)[::2] == (0, "")


def test_doctor_knows_an_old_ledger(old: Path) -> None:
    assert f"schema {SCHEMA_VERSION}" in said(old, "doctor", "--csv")[1]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Puts a ledger where nobody can write; -> its path there. A disk mounted read-only, as root may write anywhere."""
    place = tmp_path / "ground"
    place.mkdir()

    def put(path: Path) -> Path:
        if os.geteuid() != 0:
            for file in path.parent.glob(f"{path.name}*"):
                shutil.copy(file, place)
                (place / file.name).chmod(0o400)
            place.chmod(0o500)
            return place / path.name
        done = subprocess.run(["mount", "-t", "tmpfs", "test", str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, place)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return place / path.name

    yield put
    if os.geteuid() == 0:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
    place.chmod(0o700)


def test_an_old_ledger_on_read_only_ground_is_read_from_a_migrated_copy(
    source: Path, old: Path, ground: Callable[[Path], Path]
) -> None:
    path = ground(old)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    told = json.loads(source.read_text(encoding="utf-8"))
    assert len(rows(path, "SELECT recovered FROM call")) == len(told["call"])
    for words in READING:
        assert said(path, *words)[::2] == (0, "")
    with Reader(path) as reader:
        assert reader.show("@last")["id"] in {row["uid"] for row in told["call"]}
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_an_old_ledger_on_read_only_ground_cannot_be_written(old: Path, ground: Callable[[Path], Path]) -> None:
    with pytest.raises(LedgerError, match=r"^cannot use the ledger "):
        Ledger(ground(old))


@pytest.mark.parametrize("present", [("-wal",), ("-wal", "-shm"), ()])
def test_a_ledger_that_was_left_open_can_be_read_on_read_only_ground(
    tmp_path: Path, ground: Callable[[Path], Path], present: tuple[str, ...]
) -> None:
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "ledger.db"
    with Ledger(tmp_path / "ledger.db") as ledger:
        Call(ledger, 1).start()
        for suffix in ("", *present):
            shutil.copy(f"{tmp_path}/ledger.db{suffix}", f"{copy}{suffix}")
    if not present:
        small(copy)
    assert len(rows(ground(copy), "SELECT * FROM call")) == (1 if present else 10)


# Leases of a version that did not record the pid namespace.


def test_a_process_of_this_boot_is_known_without_its_namespace() -> None:
    mine = identity.owner(OWNER.runner)
    row = lease.Lease(mine.runner, mine.host, mine.boot, mine.pid, mine.pid_started, 0, 0)
    assert identity.alive(row, 10**20)
    assert not identity.alive(row._replace(pid_started=mine.pid_started + 1), 10**20)
