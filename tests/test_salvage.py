"""`calls salvage`: whatever has happened to the file, what is good in it is saved, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3 as plain
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ledgers import BY, START, Call, said, small, uid
from tombstones import wrong

from ledger import retention
from ledger.lease import unsettled
from ledger.ledger import Ledger
from ledger.pages import PAGE, Pages
from ledger.pieces import _SHAPES
from ledger.salvage import Lost, Salvaged, salvage
from ledger.sqlite import connect_reader, connect_writer
from ledger.verify import verify
from machine import facts
from machine.errors import LedgerError, NothingSavedError, UsageError
from machine.states import Reason, State

LOG = {
    "event": "SELECT * FROM event ORDER BY call_id, seq",
    "sample": "SELECT * FROM sample ORDER BY call_id, seq",
    "log": "SELECT call_id, seq, at, stream, offset_bytes, data FROM log ORDER BY call_id, seq",
}
WHOLE = LOG | {
    "call": "SELECT * FROM call ORDER BY id",
    "histogram": "SELECT * FROM histogram ORDER BY call_id, metric, bucket",
    "meta": "SELECT * FROM meta",
}
LIVE = 12
"""The call of `various` that goes on, and has rows that no event covers yet."""


class Saved(NamedTuple):
    """What salvage made of a file: its report (None: it refused, and made none) and all rows by call."""

    report: Salvaged | None
    rows: dict[str, dict[int, list[Any]]]


def various(path: Path) -> None:
    """Twelve calls of many kinds, on pages of every kind; nothing is in the WAL."""
    with Ledger(path) as ledger:
        Call(ledger, 1, "quiet").start().sample(1, 1).sample(2, 1).end(State.SUCCESS, Reason.EXIT, exit_code=0)
        Call(ledger, 2, "gone").start().sample(1, 1).write(1, 0, b"gone").end(State.ERROR, Reason.EXIT, exit_code=1)
    with closing(connect_writer(path)) as connection, retention.transaction(connection, "prune"):
        for call, parts in ((1, {"samples"}), (2, retention.EVERYTHING)):
            assert isinstance(retention._prune(connection, call, frozenset(parts), BY), retention.Amount)
    with Ledger(path) as ledger:
        wordy = Call(ledger, 3, "wordy", command=["echo", "word " * 2000]).start()  # longer than a page
        wordy.write(1, 0, b"x" * 20_000).later(1).write(2, 0, b"\xff\x00").sample(1, 2)
        wordy.end(State.ERROR, Reason.EXIT, exit_code=3, message="so " * 500)
        for number in range(4, LIVE):
            short = Call(ledger, number).start().later(1).sample(number, number).write(1, 0, b"out\n")
            short.note(facts.Gap(of="samples", since=START, until=START + number, why="test"))
            short.end(State.KILLED, Reason.OOM, exit_code=137, signal="KILL", oom="likely")
        Call(ledger, LIVE, "live").start().sample(1, 1).note(facts.Paused()).sample(2, 2).write(1, 0, b"not covered")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that no test changes."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    various(path)
    assert not Path(f"{path}-wal").exists()
    return path


def content(path: Path, tables: dict[str, str] = WHOLE) -> dict[str, dict[int, list[Any]]]:
    """All rows, by table and call."""
    with closing(connect_reader(path)) as connection:
        found: dict[str, dict[int, list[Any]]] = {}
        for table, statement in tables.items():
            rows = defaultdict(list)
            for row in connection.execute(statement):
                rows[row[1] if table == "event" else row[0]].append(row)
            found[table] = dict(rows)
        return found


@pytest.fixture(scope="module")
def before(original: Path) -> dict[str, dict[int, list[Any]]]:
    """Its rows."""
    return content(original)


def save(path: Path) -> Saved:
    """Salvage `path`; whatever comes of it is a ledger that holds, or nothing at all."""
    new = path.parent / "new.db"
    files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    try:
        report = salvage(path, new)
    except NothingSavedError:
        report = None
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if file != new}
    assert after == files
    assert new.exists() == (report is not None)
    if report is None:
        return Saved(None, {table: {} for table in WHOLE})
    try:
        with closing(connect_reader(new)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [
            finding for finding in wrong(new) if not finding.endswith("its histogram is not the one that was named")
        ]
        assert found == []
        for finding in verify(new).findings:
            # What is lost leaves gaps in the ids: that is not for salvage to hide.
            assert finding.what.startswith(("events were removed or renumbered", "its histogram is not the one that"))
        return Saved(report, content(new))
    finally:
        for file in path.parent.glob("new.db*"):
            file.unlink()


def a_prefix(saved: Saved, before: dict[str, dict[int, list[Any]]], *, told: bool = True) -> set[int]:
    """Nothing was made up: each call is a prefix of what it was; -> those that are not all of it."""
    short = set()
    for call in before["call"]:
        for table in LOG:
            kept, were = saved.rows[table].get(call, []), before[table].get(call, [])
            if call == LIVE:  # what no event covers yet is taken as it stands
                kept = kept[:1] if table != "event" else kept
            assert kept == were[: len(kept)], (table, call)
        if any(saved.rows[table].get(call) != before[table].get(call) for table in WHOLE):
            short.add(call)
    if saved.report is not None and told:
        # Of rows that no event covers nobody can say that they are missing.
        assert short <= {lost.number for lost in saved.report.lost} | {LIVE}
    return short


def places(path: Path) -> list[set[int]]:
    """By page: the calls of which it holds rows."""
    with Pages(path) as pages:
        return [
            {row[0 if name != "event" else 1] for found in page for name, row in _shaped(found)}
            for page in pages.rows()
        ]


def _shaped(found: Any) -> Iterator[tuple[str, Any]]:
    name, shape = _SHAPES.get(len(found.values), ("", lambda _: None))
    if row := shape(found):
        yield name, row


def damaged(folder: Path, data: bytes) -> Path:
    """The file with other content."""
    path = folder / "damaged.db"
    path.write_bytes(data)
    return path


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
    assert (kept[0], kept[-1]) == (69, 0)


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
1 of the calls damaged, 1 lost
"""
    )
    new.unlink()
    told = json.loads(said(path, "salvage", str(path), "-o", str(new), "--json")[1])
    assert (told["file"], told["calls"], told["events"], told["uncovered"]) == (str(new), 11, 59, 2)
    assert [(lost["call"], lost["kept"], lost["of"], lost["seq"]) for lost in told["lost"]] == [
        (uid(5), 2, 6, 3),
        (uid(6), 0, 6, 1),
    ]
