"""`calls salvage`: the WAL, what was pruned, what is no ledger, and the command itself."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3 as plain
from collections.abc import Callable
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from ledgers import BY, Call, said, small, uid
from salvaging import LIVE, a_prefix, before, content, damaged, original, save

from ledger import retention
from ledger.lease import unsettled
from ledger.ledger import Ledger
from ledger.pages import PAGE
from ledger.salvage import Lost, salvage
from ledger.sqlite import connect_reader, connect_writer
from machine.errors import LedgerError, UsageError
from machine.states import Reason, State

__all__ = ("before", "original")  # fixtures


# The WAL.


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that is all in its WAL, as after a crash."""
    folder = tmp_path_factory.mktemp("walled")
    with Ledger(folder / "live.db") as ledger:
        for number in range(1, 5):
            call = Call(ledger, number).start().sample(1, 1).write(1, 0, b"out" * 500)
            call.end(State.SUCCESS, Reason.EXIT, exit_code=0)
        for suffix in ("", "-wal"):
            shutil.copy(f"{folder}/live.db{suffix}", f"{folder}/ledger.db{suffix}")
    assert (folder / "ledger.db").stat().st_size <= PAGE
    return folder / "ledger.db"


def with_wal(folder: Path, path: Path, wal: bytes) -> Path:
    copy = damaged(folder, path.read_bytes())
    Path(f"{copy}-wal").write_bytes(wal)
    return copy


def test_what_is_in_the_wal_is_saved(walled: Path, tmp_path: Path) -> None:
    wal = Path(f"{walled}-wal").read_bytes()
    saved = save(with_wal(tmp_path, walled, wal))
    whole = content(with_wal(tmp_path, walled, wal))
    assert saved.rows == whole


def test_a_wal_cut_short_is_saved_as_far_as_it_was_committed(walled: Path, tmp_path: Path) -> None:
    wal = Path(f"{walled}-wal").read_bytes()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for size in range(0, len(wal), 3 * (PAGE + 24) + 55):
        saved = save(with_wal(tmp_path / "one", walled, wal[:size]))
        try:
            readable = content(with_wal(tmp_path / "two", walled, wal[:size]))
        except LedgerError:  # not even the schema was committed
            assert saved.report is None
        else:
            assert not readable["event"] or saved.rows == readable
        for file in (tmp_path / "two").iterdir():
            file.unlink()


def test_a_bad_frame_costs_what_only_it_had(walled: Path, tmp_path: Path) -> None:
    wal = Path(f"{walled}-wal").read_bytes()
    whole = content(with_wal(tmp_path, walled, wal))
    (tmp_path / "damaged.db-shm").unlink(missing_ok=True)
    frames = range(32, len(wal), PAGE + 24)
    for frame, byte in zip(frames[::3], cycle((4, 8, 24, 24 + 3, 24 + PAGE - 40)), strict=False):
        changed = bytearray(wal)
        changed[frame + byte] ^= 0x11
        saved = save(with_wal(tmp_path, walled, bytes(changed)))
        # SQLite itself would stop there, and lose all that follows. If it is the last frame nobody can tell.
        assert len(a_prefix(saved, whole, told=frame != frames[-1])) <= 1


def test_a_missing_or_foreign_wal_costs_only_what_was_in_it(
    original: Path, walled: Path, tmp_path: Path, before: dict[str, Any]
) -> None:
    assert save(damaged(tmp_path, walled.read_bytes())).report is None
    assert save(with_wal(tmp_path, original, random.Random(6).randbytes(100_000))).rows == before
    assert save(with_wal(tmp_path, original, b"short")).rows == before


# What was pruned.


def test_a_history_outlives_its_samples_here_too_unless_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        long = Call(ledger, 1, "long").start()
        for number in range(241):
            long.later(0.1).sample(number / 10, 1024 * number)
        long.end(State.SUCCESS, Reason.EXIT, exit_code=0)
    with closing(connect_writer(path)) as connection:
        list(retention.prune(connection, 2**62, {"samples"}, BY))
    whole = content(path)
    for beside in tmp_path.glob("ledger.db-*"):
        beside.unlink()
    assert len(whole["histogram"][1]) == 720
    assert save(path).rows == whole
    with closing(connect_writer(path)) as connection:
        connection.execute("UPDATE histogram SET max = max + 1 WHERE bucket = 7")
    saved = save(path)
    assert saved.report is not None
    why = "its history cannot be had again: it outlived its samples, and is damaged"
    assert saved.report.lost == [Lost(uid(1), 1, 6, 6, None, why)]
    assert (saved.rows["event"], saved.rows["histogram"]) == (whole["event"], {})


def test_what_was_pruned_does_not_come_back_from_old_pages(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    small(path)
    with closing(connect_writer(path)) as connection:
        list(retention.prune(connection, 2**62, retention.EVERYTHING, BY))
    assert b"no such image" in path.read_bytes()  # it stays on free pages until these are used or returned
    whole = content(path)
    for beside in tmp_path.glob("ledger.db-*"):
        beside.unlink()
    assert save(path).rows == whole


# What follows.


def test_a_call_that_lost_its_end_waits_for_somebody_to_settle_it(original: Path, tmp_path: Path) -> None:
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET at = at + 1 WHERE call_id = 5 AND seq = 5")
    salvage(path, tmp_path / "new.db")
    with closing(connect_reader(tmp_path / "new.db")) as connection:
        found = [(one.call_id, one.state, one.lease) for one in unsettled(connection)]
    assert found == [(5, "running", None), (LIVE, "paused", None)]


def test_a_new_ledger_keeps_the_id_or_says_that_it_could_not(original: Path, tmp_path: Path, before: Any) -> None:
    data = original.read_bytes()
    ((_, identity),) = before["meta"]["ledger"]
    assert data.count(identity.encode()) == 1
    path = damaged(tmp_path, data.replace(identity.encode(), b"?" * 36))
    status, out, err = said(tmp_path, "salvage", str(path), "-o", str(tmp_path / "new.db"))
    assert (status, err) == (1, "")
    assert out.startswith("the id of the ledger is lost: ")
    new = content(tmp_path / "new.db")
    assert new.pop("meta") != before["meta"]
    assert new == {table: rows for table, rows in before.items() if table != "meta"}


# What is no ledger, and the command.


def text(path: Path) -> str:
    path.write_text("Dear diary, this is not a database. " * 1000)
    return f"nothing can be saved from {path}: there is no event of a call in it that holds"


def empty(path: Path) -> str:
    path.touch()
    return f"nothing can be saved from {path}: there is no event of a call in it that holds"


def noise(path: Path) -> str:
    path.write_bytes(random.Random(7).randbytes(50_000))
    return f"nothing can be saved from {path}: there is no event of a call in it that holds"


def foreign(path: Path) -> str:
    with closing(plain.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (name TEXT)")
    return f"{path} is a SQLite file but not a ledger"


def newer(path: Path) -> str:
    small(path)
    with closing(plain.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return f"{path} has schema version 99, this program knows 2: use a newer call-ledger"


def folder(path: Path) -> str:
    path.mkdir()
    return f"cannot use the ledger {path}: Is a directory"


def nothing(path: Path) -> str:
    return f"cannot use the ledger {path}: No such file or directory"


@pytest.mark.parametrize("make", [text, empty, noise, foreign, newer, folder, nothing])
def test_where_nothing_is_to_be_saved_one_line_says_so(tmp_path: Path, make: Callable[[Path], str]) -> None:
    path = tmp_path / "ledger.db"
    line = make(path)
    status = 1 if line.startswith("nothing can be saved") else 2
    assert said(path, "salvage", str(path), "-o", str(tmp_path / "new.db")) == (status, "", f"calls: {line}\n")
    assert not list(tmp_path.glob("new.db*"))


def test_a_ledger_without_calls_is_saved_as_one(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    report = salvage(tmp_path / "ledger.db", tmp_path / "new.db")
    assert (report.calls, report.lost, report.identity) == (0, [], True)


@pytest.mark.parametrize("name", ["new.db", "new.db-wal"])
def test_nothing_is_overwritten(original: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        salvage(original, tmp_path / "new.db")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_it_says_of_each_call_what_was_lost(original: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    whole = f"{new}: 12 calls, 69 events, 11 samples, 19.6KiB of output, 2 rows of them not covered by an event yet"
    assert said(original, "salvage", str(original), "-o", str(new)) == (0, f"{whole}; nothing was lost\n", "")
    new.unlink()
    path = damaged(tmp_path, original.read_bytes())
    with closing(plain.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET at = at + 1 WHERE (call_id, seq) IN ((5, 3), (6, 1))")
    status, out, err = said(path, "salvage", str(path), "-o", str(new))
    assert (status, err) == (1, "")
    assert (
        out
        == f"""\
CALL            KEPT  FIRST BAD  WHY
000000000005  2 of 6          3  its digest does not hold: it was changed
000000000006  0 of 6          1  its digest does not hold: it was changed
{new}: 11 calls, 59 events, 9 samples, 19.6KiB of output, 2 rows of them not covered by an event yet; \
1 of the calls damaged, 1 known to be lost
"""
    )
    new.unlink()
    told = json.loads(said(path, "salvage", str(path), "-o", str(new), "--json")[1])
    assert (told["file"], told["calls"], told["events"], told["uncovered"]) == (str(new), 11, 59, 2)
    assert [(lost["call"], lost["kept"], lost["of"], lost["seq"]) for lost in told["lost"]] == [
        (uid(5), 2, 6, 3),
        (uid(6), 0, 6, 1),
    ]
