"""What happens to a ledger behind the program's back: moved, deleted, locked, forked, read for ever, read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import pytest
from chain import breaks
from ledgers import COMMAND, OWNER, Call, said, small
from running import IMAGE, LIMIT, RUN, calls, until

import calls as library
from calls.cli.group import _COMMANDS
from ledger import queue, surroundings
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.sqlite import connect_reader, has_reset_bug, sqlite3, transaction
from machine import facts
from machine.errors import LedgerError

MOVED = "it was moved or deleted while it was open"


class Told(list[str]):
    """Takes warnings."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def of(self, words: str) -> list[str]:
        return [line for line in self if words in line]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watched(ledger: Path, told: Told) -> Iterator[Ledger]:
    """A ledger that is open, its warnings in `told`."""
    with Ledger(ledger, owner=OWNER, warn=told) as opened:
        yield opened


# Row 34: moved, deleted, replaced.


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def move_away_with_its_wal(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").rename(path.with_name(f"moved.db{suffix}"))


def replace(path: Path) -> None:
    small(path.with_name("other.db"))
    path.with_name("other.db").rename(path)


def delete_its_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


HARMS = [delete, move, move_away_with_its_wal, replace, delete_its_wal]


@pytest.mark.parametrize("harm", HARMS)
def test_row_34_a_ledger_that_is_not_there_any_more_takes_no_new_calls(
    watched: Ledger, told: Told, harm: Callable[[Path], None]
) -> None:
    Call(watched, 1)
    harm(watched.path)
    with pytest.raises(LedgerError, match=f"^cannot use the ledger {watched.path}: {MOVED}$"):
        Call(watched, 2)


@pytest.mark.parametrize("harm", HARMS)
def test_row_34_it_is_noticed_within_a_second_though_nobody_writes_and_said_once(
    watched: Ledger, told: Told, harm: Callable[[Path], None]
) -> None:
    assert queue.GLANCE < 1
    harm(watched.path)
    until(lambda: told, "a warning")
    assert told == [f"cannot use the ledger {watched.path}: {MOVED}; no new calls are taken"]


def test_row_34_a_ledger_that_is_moved_back_is_used_again(watched: Ledger, told: Told) -> None:
    away = watched.path.with_name("away")
    watched.path.rename(away)
    until(lambda: told, "a warning")
    away.rename(watched.path)
    Call(watched, 1).start()
    until(lambda: breaks(watched.path) == [], "the ledger to be whole")


def test_row_34_what_runs_meanwhile_ends_in_the_spool_and_the_person_is_told(ledger: Path) -> None:
    told = Told()
    with library.Runner(ledger, tell=lambda line, stay: told(line) if stay else None) as runner:
        future = runner.submit(None, ["sleep", "60"], driver="local")
        until(lambda: _state(ledger) == "running", "the call to run")
        ledger.rename(ledger.with_name("away"))
        until(lambda: told.of(MOVED), "a warning")
        runner.cancel_all()
        until(lambda: list(ledger.parent.glob("ledger.db-spool-*")), "a spool")
        with pytest.raises(LedgerError, match=MOVED):
            runner.run(None, ["true"], driver="local")
        ledger.with_name("away").rename(ledger)
        assert future.done() or future.result(LIMIT)


def _state(path: Path) -> str:
    try:
        with Reader(path) as reader:
            return str(reader.show("@last")["state"])
    except library.CallsError:
        return ""


# Row 37: a SQLite that loses what two writers write.


@pytest.fixture
def affected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a SQLite that has the WAL-reset bug."""
    monkeypatch.setattr("ledger.sqlite.has_reset_bug", lambda: True)


SECOND = r"is being written by another process, and SQLite .* \(the WAL-reset bug\)"


def test_row_37_on_an_affected_sqlite_a_second_writer_is_refused(ledger: Path, affected: None) -> None:
    with Ledger(ledger) as first:
        with pytest.raises(LedgerError, match=SECOND) as refused:
            Ledger(ledger)
        assert "\n" not in str(refused.value)
        Call(first, 1).start()
    with Ledger(ledger) as next_one:
        Call(next_one, 2)


def test_row_37_readers_are_not_refused(ledger: Path, affected: None) -> None:
    with Ledger(ledger) as writer:
        Call(writer, 1)
        with Reader(ledger) as reader:
            assert reader.show("@last")["state"] == "preparing"


def test_row_37_a_writer_that_cannot_open_does_not_keep_others_out(ledger: Path, affected: None) -> None:
    ledger.write_text("no ledger at all, and longer than the header of one" * 10)
    for _ in range(2):
        with pytest.raises(LedgerError, match="is not a ledger"):
            Ledger(ledger)


def test_row_37_with_a_whole_sqlite_two_writers_may_write_and_there_is_no_lock(ledger: Path) -> None:
    if has_reset_bug():
        pytest.skip("this SQLite is affected")
    with Ledger(ledger) as one, Ledger(ledger) as other:
        Call(one, 1)
        Call(other, 2)
    assert list(ledger.parent.glob("ledger.db-lock")) == []


HOLDS = """
import sys
sys.modules["pysqlite3"] = None  # the SQLite of the system, which may be affected
from ledger.ledger import Ledger
from ledger.sqlite import has_reset_bug
if not has_reset_bug():
    sys.exit(3)
try:
    ledger = Ledger(sys.argv[1])
except Exception as error:
    sys.exit(str(error))
print("open", flush=True)
sys.stdin.read()
"""


def test_row_37_the_same_with_an_sqlite_that_is_affected_and_kill_9(ledger: Path) -> None:
    words = [sys.executable, "-c", HOLDS, str(ledger)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as first:  # type: ignore[call-overload]
        if first.stdout.readline() != "open\n":
            pytest.skip("the system's SQLite is not affected")
        second = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert "(the WAL-reset bug)" in second.stderr
        first.kill()
    third = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (third.returncode, third.stdout, third.stderr) == (0, "open\n", "")


# Row 40: somebody reads all the time.


def test_row_40_a_long_reader_does_not_hinder_the_writer_and_a_wal_that_grows_is_told_of(
    ledger: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 2**20
    monkeypatch.setattr(surroundings, "MANY", many)
    wal = Path(f"{ledger}-wal")
    with Ledger(ledger, warn=told) as opened:
        opened._writer._connection.execute("PRAGMA wal_autocheckpoint = 10")
        Call(opened, 0)
        with closing(connect_reader(ledger)) as reader:
            reader.execute("BEGIN")
            before = reader.execute("SELECT count(*) FROM call").fetchone()
            number = 1
            while wal.stat().st_size < 4 * many:
                Call(opened, number).start().write(1, 0, bytes(100_000)).note(facts.Paused())
                number += 1
            until(lambda: len(told) > 1, "two warnings")
            assert reader.execute("SELECT count(*) FROM call").fetchone() == before
        shown = [line.partition(":")[0] for line in told]
        assert 2 <= len(shown) <= 3
        assert all(line.startswith(f"{wal} has grown to ") and line.endswith("MiB") for line in shown)
        opened._writer._connection.execute("PRAGMA journal_size_limit = 0")
        Call(opened, number)  # the reader is gone: the next commits begin at the start of the WAL again
        Call(opened, number + 1)
        assert wal.stat().st_size < many
    assert breaks(ledger) == []


def test_row_40_without_long_readers_the_wal_stays_small_and_nobody_is_told(ledger: Path, told: Told) -> None:
    assert surroundings.MANY == 256 * 2**20
    with Ledger(ledger, warn=told) as opened:
        for number in range(100):
            Call(opened, number).start().write(1, 0, bytes(100_000)).note(facts.Paused())
        assert Path(f"{ledger}-wal").stat().st_size < 16 * 2**20
    assert told == []


# Row 43: a fork.


FORKS = """
import os, sys
from ledgers import Call
from ledger.append import ChunkIn, SampleIn
from ledger.ledger import Ledger
from machine.errors import LedgerError
from machine.samples import Sample
ledger = Ledger(sys.argv[1])
call = Call(ledger, 1)
pid = os.fork()
if pid == 0:
    refused = 0
    for use in (
        lambda: Call(ledger, 2),
        lambda: call.start(),
        lambda: ledger.sample(call.id, 1, Sample(pids=1)),
        lambda: ledger.output(call.id, 1, 1, 0, b"out"),
        lambda: ledger.requests([call.id]),
        lambda: ledger.unsettled(),
        lambda: ledger.keyed("key"),
    ):
        try:
            use()
        except LedgerError as error:
            refused += str(error) == f"the ledger {sys.argv[1]} was opened before a fork: open it anew in this process"
    ledger.close()
    with Ledger(sys.argv[1]) as own:
        Call(own, 3)
    os._exit(refused)
refused = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
call.start()
ledger.close()
print(refused)
"""


def test_row_43_after_a_fork_every_use_in_the_child_is_refused_and_the_parent_goes_on(ledger: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, str(ledger)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")
    with closing(connect_reader(ledger)) as connection:
        assert connection.execute("SELECT state FROM call ORDER BY id").fetchall() == [("running",), ("preparing",)]
    assert breaks(ledger) == []


LEAVES = """
import os, sys
from held import HeldDriver
from calls import Runner
class Driver(HeldDriver):
    def close(self):
        if os.getpid() != parent:
            os._exit(9)  # what it would let go of is its parent's
_, ledger, way, busy = sys.argv
driver, parent = Driver(), os.getpid()
with Runner(ledger, drivers=[driver], recover=False) as runner:
    if busy:
        future = runner.submit("image", driver="held", sample="off", name="one")
        driver.running("one")
    if os.fork() == 0:
        if way == "error":
            sys.exit(7)
        runner.cancel_all()
        if way == "close":
            runner.close()
    else:
        status = os.waitstatus_to_exitcode(os.wait()[1])
        if busy:
            driver.containers["one"].end()
            status = status, future.result().state
        print(status)
"""


@pytest.mark.parametrize("way", ["end", "close", "error"])
@pytest.mark.parametrize("busy", ["busy", ""])
def test_row_43_a_child_that_leaves_its_parents_runner_neither_waits_nor_lets_go_of_anything(
    way: str, busy: str, ledger: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEAVES, str(ledger), way, busy],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    status = 7 if way == "error" else 0
    assert (done.stdout, done.stderr) == (f"{(status, 'success') if busy else status}\n", "")


# Rows 32 and 33: what cannot be written takes no new call, and nothing is made.


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by another connection, as by another process."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other, transaction(other, "other"):
        yield


def test_row_33_a_new_call_waits_for_a_lock_of_a_second(ledger: Path, tmp_path: Path) -> None:
    small(ledger)
    words = [*COMMAND, "run", "--driver", "local", "--", "touch", f"{tmp_path}/ran"]
    with locked(ledger):
        process = subprocess.Popen(words)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert not (tmp_path / "ran").exists()
    assert process.wait(LIMIT) == 0
    assert (tmp_path / "ran").exists()


def test_row_33_a_new_call_is_refused_when_the_lock_lasts(ledger: Path, tmp_path: Path) -> None:
    small(ledger)
    with locked(ledger):
        done = calls("run", "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    assert done[:2] == (125, b"")
    line = f"calls: cannot use the ledger {ledger}: database is locked (another process holds it locked; try again)\n"
    assert done.err.decode() == line
    assert not (tmp_path / "ran").exists()


@pytest.mark.engine
def test_row_33_no_container_is_made_while_the_ledger_is_locked(ledger: Path, engine: docker.APIClient) -> None:
    small(ledger)
    mark = f"test={uuid.uuid4()}"
    with locked(ledger):
        assert calls(*RUN, "--label", mark, IMAGE, "true").status == 125
    assert engine.containers(all=True, filters={"label": mark}) == []


def test_row_33_a_runner_that_is_open_refuses_a_new_call_as_well(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.sqlite._WRITER", ("PRAGMA busy_timeout = 50",))
    with library.Runner(ledger) as runner:
        with locked(ledger), pytest.raises(LedgerError, match="another process holds it locked"):
            runner.run(None, ["true"], driver="local")
        assert runner.run(None, ["true"], driver="local").state == "success"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A small ledger on ground that nobody can write on: not even root, who may write anywhere else."""
    place = tmp_path / "ground"
    place.mkdir()
    root = os.geteuid() == 0
    if root:
        done = subprocess.run(["mount", "-t", "tmpfs", "test", str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    small(place / "ledger.db")
    if root:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        (place / "ledger.db").chmod(0o400)
        place.chmod(0o500)
    yield place / "ledger.db"
    if root:
        subprocess.run(["umount", "-l", str(place)], check=True)
    place.chmod(0o700)


READING: dict[str, tuple[list[str], int]] = {
    "ps": (["-a"], 0),
    "show": (["ok"], 0),
    "events": (["ok"], 0),
    "stats": (["ok"], 0),
    "logs": (["ok"], 0),
    "wait": (["ok"], 0),
    "sql": (["SELECT * FROM calls"], 0),
    "metrics": ([], 0),
    "verify": (["ok"], 0),
    "replay": (["ok"], 0),
    "backup": (["{out}"], 0),
    "salvage": (["{ledger}", "-o", "{out}"], 0),
}
"""The commands that only read the ledger, and their exit status. `doctor` and `images` ask the engine
as well; `exec` has exit statuses of its own."""
WRITING: dict[str, list[str]] = {
    "cancel": ["live"],
    "kill": ["live"],
    "rebuild": [],
    "prune": ["--older-than", "0s"],
    "recover": [],
    "pause": ["live"],
    "resume": ["live"],
    "signal": ["live", "HUP"],
    "top": ["live"],
}


def test_every_command_is_one_that_reads_or_one_that_writes() -> None:
    assert {*_COMMANDS} == {*READING, *WRITING, "run", "doctor", "images", "exec"}


@pytest.mark.parametrize("name", READING)
def test_row_32_what_reads_works_on_a_read_only_ledger(read_only: Path, tmp_path: Path, name: str) -> None:
    words, status = READING[name]
    filled = [word.format(ledger=read_only, out=tmp_path / "out.db") for word in words]
    done = said(read_only, name, *filled)
    assert (done[0], done[2]) == (status, "")


def test_row_32_doctor_says_what_a_read_only_ledger_holds(read_only: Path) -> None:
    out = said(read_only, "doctor", "--csv")[1]
    assert f"ledger,ok,{read_only}  " in out
    assert "  WAL  " in out


@pytest.mark.parametrize("name", WRITING)
def test_row_32_what_writes_says_in_one_line_that_it_cannot(read_only: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in read_only.parent.iterdir()}
    status, out, error = said(read_only, name, *WRITING[name])
    assert (status, out) == (2, "")
    assert error.startswith(f"calls: cannot use the ledger {read_only}: ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in read_only.parent.iterdir()} == before


@pytest.mark.engine
def test_row_32_no_container_is_made_for_a_ledger_that_is_read_only(read_only: Path, engine: docker.APIClient) -> None:
    mark = f"test={uuid.uuid4()}"
    done = calls("--ledger", str(read_only), *RUN, "--label", mark, IMAGE, "true")
    assert (done.status, done.err.count(b"\n")) == (125, 1)
    assert engine.containers(all=True, filters={"label": mark}) == []


def test_row_32_a_copy_of_a_read_only_ledger_can_be_written(read_only: Path, tmp_path: Path) -> None:
    copy = shutil.copyfile(read_only, tmp_path / "copy.db")
    with Ledger(copy) as opened:
        Call(opened, 99)
