"""`calls backup`: a copy of one moment, whole or not at all, whoever writes meanwhile."""

from __future__ import annotations

import gzip
import json
import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from ledgers import COMMAND, START, Call, said, small
from running import until
from terminals import screen

from ledger import backup as backups
from ledger.backup import Copy, backup, whole
from ledger.head import heads
from ledger.ledger import Ledger
from ledger.sqlite import connect_reader, connect_writer, sqlite3
from ledger.verify import verify
from machine.errors import LedgerError, UsageError
from machine.states import Kind, Reason, State

V1 = Path(__file__).parent / "versions" / "1"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Ten calls."""
    small(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where the copy is to be: in a folder of its own."""
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.db"


def head(path: Path) -> list[bytes]:
    with closing(connect_reader(path)) as connection:
        return list(heads(connection))


def dump(path: Path) -> dict[str, list[Any]]:
    """The schema, and every table."""
    with closing(sqlite3.connect(path)) as connection:
        found = {"": connection.execute("SELECT * FROM sqlite_master ORDER BY rowid").fetchall()}
        tables = [row[1] for row in found[""] if row[0] == "table"]
        return found | {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def pragma(path: Path, name: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def left(path: Path) -> list[str]:
    """What is in the folder of a file."""
    return sorted(found.name for found in path.parent.iterdir())


def test_a_copy_is_a_ledger_like_the_one_it_is_of(ledger: Path, copy: Path) -> None:
    told = backup(ledger, copy)
    assert told == Copy(10, 50, copy.stat().st_size)
    assert (left(copy), stat.S_IMODE(copy.stat().st_mode)) == (["copy.db"], 0o600)
    assert dump(copy) == dump(ledger)
    assert pragma(copy, "integrity_check") == "ok"
    for name in ("journal_mode", "auto_vacuum", "application_id", "user_version"):
        assert pragma(copy, name) == pragma(ledger, name)
    assert verify(copy).findings == []
    with Ledger(copy) as writing:
        Call(writing, 11).start()


def test_what_is_still_in_the_wal_is_copied(tmp_path: Path, copy: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        Call(ledger, 1).start().end(State.SUCCESS, Reason.EXIT, exit_code=0)
        assert path.stat().st_size <= 4096
        backup(path, copy)
    assert dump(copy) == dump(path)


def test_a_writer_at_full_speed_neither_stops_it_nor_is_stopped(
    ledger: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "PAGES", 1)  # as many steps as a large ledger has
    written, stop = [0], threading.Event()

    def write() -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 11).start()
            while not stop.is_set():
                writing.append(call.id, Kind.GAP, None, START, None, "{}")
                written[0] += 1

    seen: list[int] = []

    def progress(done: int, of: int) -> None:
        if len(seen) < 10:  # an event is written between this step and the next
            now = written[0]
            until(lambda: written[0] > now + 1, "the writer to go on")
        seen.append(done)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: written[0] > 3, "the writer to begin")
        backup(ledger, copy, progress)
    finally:
        stop.set()
        writer.join()
    assert seen == list(range(1, len(seen) + 1))
    assert pragma(copy, "integrity_check") == "ok"
    assert breaks(copy) == []
    then, now = head(copy), head(ledger)
    assert then == now[: len(then)]
    assert len(then) < len(now)


def test_nothing_is_overwritten(ledger: Path, copy: Path) -> None:
    copy.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        backup(ledger, copy)
    assert (copy.read_text(), left(copy)) == ("mine", ["copy.db"])


def test_a_dangling_link_is_not_followed(ledger: Path, copy: Path) -> None:
    copy.symlink_to(copy.parent / "elsewhere")
    with pytest.raises(UsageError, match="is there already"):
        backup(ledger, copy)
    assert left(copy) == ["copy.db"]


def test_the_ledger_itself_is_not_overwritten(ledger: Path) -> None:
    before = ledger.read_bytes()
    status, out, err = said(ledger, "backup", str(ledger))
    assert (status, out, err) == (2, "", f"calls: {ledger} is there already: give the name of a new file\n")
    assert ledger.read_bytes() == before


@pytest.mark.parametrize("refused", [False, True])
def test_what_appears_meanwhile_is_not_overwritten(copy: Path, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    if refused:
        monkeypatch.setattr(os, "link", no_links)
    place = whole(copy)
    place.__enter__().write_text("ours")
    copy.write_text("mine")
    with pytest.raises(UsageError, match="is there by now"):
        place.__exit__(None, None, None)
    assert (copy.read_text(), left(copy)) == ("mine", ["copy.db"])


def no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_where_a_file_system_has_no_links_it_works_as_well(
    ledger: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    backup(ledger, copy)
    assert (left(copy), dump(copy)) == (["copy.db"], dump(ledger))


def test_two_at_once_are_not_mixed(ledger: Path, copy: Path) -> None:
    with whole(copy) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        with pytest.raises(UsageError, match="is there: it is being written"):
            backup(ledger, copy)
    assert left(copy) == ["copy.db"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_cut_short_it_leaves_nothing(ledger: Path, copy: Path, error: type[BaseException]) -> None:
    def stop(done: int, of: int) -> None:
        raise error

    with pytest.raises(error):
        backup(ledger, copy, stop)
    assert left(copy) == []


def test_killed_it_leaves_no_copy(ledger: Path, copy: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from ledger.backup import backup\n"
        "backup(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(ledger), str(copy)], check=False).returncode == -9
    assert left(copy) == ["copy.db.part"]


def nowhere(_: Path, copy: Path) -> Path:
    return copy.parent / "none" / "copy.db"


def part_of_a_file(ledger: Path, _: Path) -> Path:
    return ledger / "copy.db"


@pytest.mark.parametrize("place", [nowhere, part_of_a_file])
def test_a_place_where_nothing_can_be_made(ledger: Path, copy: Path, place: Callable[[Path, Path], Path]) -> None:
    with pytest.raises(LedgerError, match="cannot use the ledger"):
        backup(ledger, place(ledger, copy))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_disk_too_small_for_it(ledger: Path, copy: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "test", str(copy.parent)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(LedgerError, match="make room and try again"):
            backup(ledger, copy)
        assert left(copy) == []
    finally:
        subprocess.run(["umount", "-l", str(copy.parent)], check=True)


def test_of_a_ledger_that_cannot_be_written(ledger: Path, copy: Path) -> None:
    before = dump(ledger)
    ledger.chmod(0o400)
    ledger.parent.chmod(0o500)
    try:
        backup(ledger, copy)
    finally:
        ledger.parent.chmod(0o700)
    assert dump(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["local", "engine"])
def test_of_an_older_ledger_it_is_of_that_version(tmp_path: Path, copy: Path, name: str) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress((V1 / f"{name}.db.gz").read_bytes()))
    before = path.read_bytes()
    backup(path, copy)
    assert (pragma(copy, "user_version"), path.read_bytes()) == (1, before)
    assert dump(copy) == dump(path)
    connect_writer(copy).close()  # and can be brought up to date like that one
    assert breaks(copy) == []


def test_what_is_no_ledger_is_not_copied(tmp_path: Path, copy: Path) -> None:
    path = tmp_path / "text"
    path.write_text("Dear diary, this is not a database. " * 100)
    with pytest.raises(LedgerError, match="is not a ledger, or is damaged"):
        backup(path, copy)
    with pytest.raises(LedgerError, match="no ledger at"):
        backup(tmp_path / "none", copy)
    assert left(copy) == []


def test_it_says_what_it_copied(ledger: Path, copy: Path) -> None:
    status, out, err = said(ledger, "backup", str(copy))
    assert (status, out, err) == (0, f"{copy}: 10 calls, 50 events, {copy.stat().st_size / 1024:.1f}KiB\n", "")
    copy.unlink()
    told = json.loads(said(ledger, "backup", str(copy), "--json")[1])
    assert told == {"file": str(copy), "calls": 10, "events": 50, "bytes": copy.stat().st_size}


def test_on_a_terminal_it_shows_how_far_it_is_and_cleans_up_after_itself(ledger: Path, copy: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*COMMAND, "--ledger", str(ledger), "backup", str(copy)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    assert screen(ours) == b"\r\x1b[Kcopying: 100 %\r\x1b[K"
    os.close(ours)
    assert done.stdout.startswith(str(copy).encode())
