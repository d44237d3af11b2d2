"""The file: who may read it, what is taken for a ledger, and what is left alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ledgers import Call, uid

from ledger import sqlite as door
from ledger.backup import backup
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.rebuild import rebuild
from ledger.salvage import salvage
from ledger.sqlite import SCHEMA_VERSION, connect_reader, connect_writer, has_reset_bug
from machine.errors import LedgerError

NOBODY = 65534
OPEN = "import sys; from ledger.ledger import Ledger; print(Ledger(sys.argv[1]).id)"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refusal(path: Path) -> str:
    """What is said instead of opening `path`."""
    with pytest.raises(LedgerError) as refused:
        Ledger(path)
    return str(refused.value)


def plain(path: Path, *statements: str) -> None:
    """Carry out statements as any other program could."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def open_to_all() -> Iterator[None]:
    """Without any umask."""
    before = os.umask(0)
    yield
    os.umask(before)


# A new ledger.


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_only_its_owner_can_read_a_ledger_whatever_the_umask(tmp_path: Path, suffix: str) -> None:
    with open_to_all(), Ledger(tmp_path / "ledger.db") as ledger:
        Call(ledger, 1)
        assert mode(tmp_path / f"ledger.db{suffix}") == 0o600


def test_only_its_owner_can_look_into_the_folder_that_is_made_for_it(tmp_path: Path) -> None:
    with open_to_all(), Ledger(tmp_path / "far" / "calls" / "ledger.db"):
        assert mode(tmp_path / "far" / "calls") == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Ledger(tmp_path / "ledger.db").close()
    assert mode(tmp_path) == 0o755


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    with open_to_all():
        (tmp_path / "ledger.db").touch()
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert Call(ledger, 1).id == 1
        assert mode(tmp_path / "ledger.db") == mode(tmp_path / "ledger.db-wal") == 0o600


@pytest.mark.parametrize("name", ["file:ledger.db", "file:ledger.db?mode=memory", ":memory:"])
def test_what_sqlite_takes_for_an_address_is_the_name_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, copy, saved = Path(name), Path(f"{name}-copy"), Path(f"{name}-saved")
    with open_to_all(), Ledger(path) as ledger:
        Call(ledger, 1)
    assert backup(path, copy).calls == 1
    assert salvage(copy, saved).calls == 1
    assert rebuild(path, lambda *_: None).calls == 1
    with Reader(path) as reader:
        assert len(list(reader.calls())) == 1
    files = [each for each in tmp_path.iterdir() if not each.name.endswith(("-wal", "-shm"))]
    assert {each.name for each in files} == {name, f"{name}-copy", f"{name}-saved"}
    assert {mode(each) for each in files} == {0o600}


def test_a_ledger_keeps_its_id(tmp_path: Path) -> None:
    ids = set()
    for _ in range(3):
        with Ledger(tmp_path / "ledger.db") as ledger:
            ids.add(ledger.id)
    assert len(ids) == 1


def test_two_ledgers_have_different_ids(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as one, Ledger(tmp_path / "b.db") as other:
        assert one.id != other.id


def test_a_closed_ledger_is_one_file(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        Call(ledger, 1).start()
    assert everything(tmp_path).keys() == {"ledger.db"}


def test_processes_that_make_one_ledger_at_the_same_time_make_one(tmp_path: Path) -> None:
    words = [sys.executable, "-c", OPEN, str(tmp_path / "ledger.db")]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    said = [process.communicate() for process in processes]
    assert [errors for _, errors in said if errors] == []
    assert len({ids for ids, _ in said}) == 1


def test_every_table_is_strict(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'").fetchall()
    assert {name for name, strict in tables if not strict} <= {"sqlite_schema", "sqlite_temp_schema"}


def test_the_file_is_in_wal_mode_and_can_shrink_step_by_step(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "auto_vacuum")]
    assert pragmas == ["wal", 2]


def test_what_was_switched_from_wal_mode_is_in_it_again_when_it_is_next_written(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    plain(tmp_path / "ledger.db", "PRAGMA journal_mode = DELETE")
    with Reader(tmp_path / "ledger.db") as reader:
        assert reader.about()["journal"] == "delete"
    with Ledger(tmp_path / "ledger.db") as ledger, Reader(tmp_path / "ledger.db") as reader:
        assert reader.about()["journal"] == "wal"
        assert Call(ledger, 1).id == 1


def test_who_is_about_to_write_is_waited_for_before_wal_mode_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(tmp_path / "ledger.db").close()
    plain(tmp_path / "ledger.db", "PRAGMA journal_mode = DELETE")
    # Of the same library: two of them in one process do not see each other's locks.
    with closing(door.sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("ledger.sqlite.time.sleep", lambda _: other.execute("ROLLBACK"))
        connect_writer(tmp_path / "ledger.db").close()
        assert not other.in_transaction
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_who_reads_for_long_does_not_keep_others_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(tmp_path / "ledger.db").close()
    plain(tmp_path / "ledger.db", "PRAGMA journal_mode = DELETE")
    monkeypatch.setattr("ledger.sqlite.BUSY_MS", 1)
    monkeypatch.setattr("ledger.sqlite._WRITER", ("PRAGMA busy_timeout = 1",))
    with closing(door.sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN").execute("SELECT count(*) FROM event").fetchone()
        connect_writer(tmp_path / "ledger.db").close()


# What is no ledger is refused in one line, and left alone.


def make_text(path: Path) -> str:
    path.write_text("these are my notes\n" * 100, encoding="utf-8")
    return "is not a ledger, or is damaged"


def make_foreign(path: Path) -> str:
    plain(path, "CREATE TABLE note (text)", "INSERT INTO note VALUES ('mine')")
    return "is a SQLite file but not a ledger; give another file with --ledger"


def make_foreign_with_a_version(path: Path) -> str:
    plain(path, "PRAGMA user_version = 1", "CREATE TABLE call (text)")
    return "is a SQLite file but not a ledger; give another file with --ledger"


def make_newer(path: Path) -> str:
    Ledger(path).close()
    plain(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    return f"has schema version {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}: use a newer call-ledger"


def make_cut(path: Path) -> str:
    Ledger(path).close()
    path.write_bytes(path.read_bytes()[:50])
    return "is not a ledger, or is damaged"


MAKERS = [make_text, make_foreign, make_foreign_with_a_version, make_newer, make_cut]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_ledger_is_refused_in_one_line(tmp_path: Path, make: object) -> None:
    assert callable(make)
    words = make(tmp_path / "file")
    said = refusal(tmp_path / "file")
    assert said.startswith(f"{tmp_path}/file {words}")
    assert "\n" not in said


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_ledger_is_left_as_it_is(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "file")
    before = everything(tmp_path)
    refusal(tmp_path / "file")
    assert everything(tmp_path) == before


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path)
    assert said.startswith(f"cannot use the ledger {tmp_path}: ")
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "ledger.db").startswith(f"cannot use the ledger {tmp_path}/file/ledger.db: ")


def test_reading_where_there_is_no_ledger_makes_none(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .*/ledger.db yet: record a call first"):
        Reader(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_marks_of_a_url_is_only_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20d &mode=rwc.db"
    with Ledger(path) as ledger:
        Call(ledger, 1)
    with Reader(path) as reader:
        assert reader.show("@last")["id"] == uid(1)


# Without permission. Root has every permission: there the tests are carried out as nobody.


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a ledger of one call, which belong to whoever the test is carried out as."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        with Ledger(path / "ledger.db") as ledger:
            Call(ledger, 1)
        if os.geteuid() == 0:
            for one in (path, path / "ledger.db"):
                os.chown(one, NOBODY, NOBODY)
        yield path
        path.chmod(0o700)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As nobody, for root; as oneself for all others."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_a_file_that_is_read_only_is_refused_in_one_line(folder: Path) -> None:
    (folder / "ledger.db").chmod(0o400)
    before = (folder / "ledger.db").read_bytes()
    with unprivileged():
        said = refusal(folder / "ledger.db")
    assert "it is read-only; give another file with --ledger" in said
    assert (folder / "ledger.db").read_bytes() == before


def test_a_folder_that_is_closed_is_refused_in_one_line(folder: Path) -> None:
    folder.chmod(0o000)
    with unprivileged():
        said = refusal(folder / "ledger.db")
    assert said == f"cannot use the ledger {folder}/ledger.db: Permission denied"


def test_a_new_ledger_in_a_folder_that_is_read_only_is_refused_in_one_line(folder: Path) -> None:
    folder.chmod(0o500)
    with unprivileged():
        said = refusal(folder / "new.db")
    assert said == f"cannot use the ledger {folder}/new.db: Permission denied"


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # (not a device: one that is taken for a ledger does not keep its mode)
    assert refusal(tmp_path / "pipe") == f"cannot use the ledger {tmp_path}/pipe: it is not a regular file"
    with pytest.raises(LedgerError, match=r"it is not a regular file$"):
        connect_reader(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert (
        refusal(tmp_path / "file" / "ledger.db") == f"cannot use the ledger {tmp_path}/file/ledger.db: Not a directory"
    )


def test_a_ledger_on_read_only_ground_can_be_read(folder: Path) -> None:
    (folder / "ledger.db").chmod(0o400)
    folder.chmod(0o500)
    with unprivileged(), Reader(folder / "ledger.db") as reader:
        assert reader.show("@last")["id"] == uid(1)


# The door.


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    with closing(connect_reader(tmp_path / "ledger.db")) as connection, pytest.raises(Exception, match="readonly"):
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 50, 7), False),
        ((3, 50, 6), True),
        ((3, 44, 6), False),
        ((3, 40, 1), True),
    ],
)
def test_versions_of_sqlite_that_can_lose_commits(version: tuple[int, ...], affected: bool) -> None:  # noqa: FBT001
    assert has_reset_bug(version) is affected
