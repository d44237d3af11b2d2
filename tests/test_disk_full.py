"""A disk full at any page, a ledger that somebody else holds: calls under way end true, new ones are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import pytest
from conducting import Stage
from failing import OTHER, SAMPLES, STEPS
from invariants import invariants
from ledgers import OWNER
from running import IMAGE, RUN, STAY, fill, nothing_left, shown, steps, under, until
from running import calls as said

import calls
from driver.scripted import writes
from ledger import writer
from ledger.ledger import Ledger
from ledger.sqlite import connect_reader
from machine.errors import LedgerError
from machine.states import Kind

HOLDS = """
import sys
from ledger.sqlite import sqlite3
with sqlite3.connect(sys.argv[1], isolation_level=None) as db:
    db.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.read(1)
"""
"""Holds the ledger until somebody writes to its standard input, or closes it."""
STAYS = "echo up; while [ ! -e {gate}/open ]; do sleep 0.05; done; echo done; exit 4"


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the ledger."""
    words = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process


def impatient(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is not waited for."""
    monkeypatch.setattr(writer, "BUSY_MS", 10)
    monkeypatch.setattr(writer, "BRIEF_MS", 10)
    ledger._writer._connection.execute("PRAGMA busy_timeout = 10")


def started(path: Path) -> bool:
    """Whether the call has started."""
    with closing(connect_reader(path)) as db:
        return bool(db.execute("SELECT count(*) FROM event WHERE kind = ?", (Kind.STARTED.code,)).fetchone()[0])


# Full at the n-th page.


class FullStage(Stage):
    """A call that writes 48 pages of output, on a disk with room for `room` pages more than an empty ledger takes."""

    def __init__(self, path: Path, room: int) -> None:
        pages = (writes(bytes([65 + number]) * 16384, after=number / 8) for number in range(12))
        super().__init__(path, *STEPS, *pages, samples=SAMPLES)
        self.ledger.close()
        self.warned: list[str] = []
        self.ledger = Ledger(path, owner=OWNER, warn=self.warned.append)  # type: ignore[assignment]
        connection = self.ledger._writer._connection
        (taken,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {taken + room}")


def conduct(path: Path, room: int) -> tuple[list[str], list[str]]:
    """Conduct the call; -> what was done, and what was warned of."""
    with FullStage(path, room) as stage:
        try:
            stage.conduct(command=["x" * 20_000])  # so that its first event needs pages of its own
        except LedgerError as error:
            stage.warned.append(f"refused: {error}")
    return stage.actions, stage.warned


def missing(path: Path, of: str) -> int:
    """How many samples, or bytes of output, are said to be missing."""
    with closing(connect_reader(path)) as db:
        query = "SELECT coalesce(sum(data ->> 'lost'), 0) FROM event WHERE kind = ? AND data ->> 'of' = ?"
        return int(db.execute(query, (Kind.GAP.code, of)).fetchone()[0])


def accounted(path: Path) -> tuple[int, int]:
    """Samples and bytes of output: those that are there, and those that are said to be missing."""
    with closing(connect_reader(path)) as db:
        (samples,) = db.execute("SELECT count(*) FROM sample").fetchone()
        (output,) = db.execute("SELECT coalesce(sum(length(data)), 0) FROM log").fetchone()
    return samples + missing(path, "samples"), output + missing(path, "output")


def test_at_whatever_page_the_disk_is_full_the_call_ends_true_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    outcomes: dict[str, int] = {"refused": 0, "spooled": 0, "whole": 0}
    (tmp_path / "whole").mkdir()
    conduct(tmp_path / "whole" / "ledger.db", 10_000)
    whole = accounted(tmp_path / "whole" / "ledger.db")
    assert whole == (3, 12 * 16384 + len("one\ntwo\n"))
    for room in range(100):
        path = tmp_path / str(room) / "ledger.db"
        path.parent.mkdir()
        done, warned = conduct(path, room)
        Ledger(path, owner=OTHER).close()
        invariants(path)
        if warned and warned[0].startswith("refused"):
            outcomes["refused"] += 1
            assert (done, len(warned)) == ([], 1), room
            assert warned[0].endswith("database or disk is full (the disk is full; make room and try again)")
            continue
        with closing(connect_reader(path)) as db:
            assert db.execute("SELECT state, exit_code, cleaned FROM call").fetchall() == [("error", 3, 1)], room
        assert accounted(path) == whole, room
        outcomes["spooled" if warned else "whole"] += 1
        if not warned:
            break
    assert min(outcomes.values()) > 0, outcomes


# Full in the middle of `calls run`.


def test_a_disk_that_fills_up_while_a_process_runs(
    mounted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mounted("size=4m")
    monkeypatch.setenv("CALLS_LEDGER", str(path))
    with under("run", "--driver", "local", "--", "sh", "-c", STAYS.format(gate=tmp_path)) as call:
        call.hear(b"up\n")
        until(lambda: shown()["state"] == "running", "the start to be recorded")
        fill(path)
        (tmp_path / "open").touch()
        status, out, err = call.end()
    assert (status, out) == (125, b"up\ndone\n")
    isolation, warning = err.decode().splitlines()
    assert "not isolated" in isolation
    assert warning.startswith(f"calls: warning: cannot use the ledger {path}: ")
    assert warning.endswith(" and is taken in at the next start")
    refused = said("run", "--driver", "local", "--", "touch", f"{tmp_path}/ran")
    assert (refused.status, refused.err.count(b"\n"), (tmp_path / "ran").exists()) == (125, 1, False)
    (path.parent / "filler").unlink()
    assert said("run", "--driver", "local", "--", "true").status == 0
    found = shown("@last-failed")
    assert (found["state"], found["reason"], found["exit_code"]) == ("error", "exit", 4)
    assert steps(found["id"])[:5] == ["submitted", "prepared", "started", "failed", "cleaned"]
    assert missing(path, "output") in (len(b"done\n"), len(b"up\ndone\n"))
    assert (list(path.parent.glob("*-spool-*")), invariants(path)) == ([], 2)


@pytest.mark.engine
def test_a_disk_that_fills_up_while_a_container_runs(
    mounted: Callable[[str], Path], tmp_path: Path, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mounted("size=4m")
    monkeypatch.setenv("CALLS_LEDGER", str(path))
    with nothing_left(engine):
        with under(*RUN, "--volume", f"{tmp_path}:/gate", IMAGE, "sh", "-c", STAY) as call:
            call.hear(b"up\n")
            until(lambda: shown()["state"] == "running", "the start to be recorded")
            fill(path)
            (tmp_path / "open").touch()
            status, out, err = call.end()
        assert (status, out, err.count(b"\n")) == (125, b"up\ndone\n", 1)
        assert shown()["state"] == "running"
        (path.parent / "filler").unlink()
        Ledger(path, owner=OTHER).close()
        assert (shown()["state"], shown()["reason"], shown()["exit_code"]) == ("error", "exit", 4)
        assert (steps()[:5], invariants(path)) == (["submitted", "prepared", "started", "failed", "cleaned"], 1)


# Held by somebody else.


def test_a_ledger_that_is_held_for_a_second_is_waited_for(ledger: Path, tmp_path: Path) -> None:
    with calls.Runner(ledger) as runner:
        future = runner.submit(None, ["sh", "-c", STAYS.format(gate=tmp_path)], driver="local")
        until(lambda: started(ledger), "the start to be recorded")
        with held(ledger) as holder:
            (tmp_path / "open").touch()
            with pytest.raises(subprocess.TimeoutExpired):
                holder.wait(1)
            assert not future.done()
        assert future.result(60).exit_code == 4
    assert (runner.ledger.unwritten, invariants(ledger)) == ("", 1)


def test_a_call_that_ends_while_the_ledger_is_held_for_longer_is_taken_in_when_it_is_free(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calls.Runner(ledger) as runner:
        impatient(runner.ledger, monkeypatch)
        future = runner.submit(None, ["sh", "-c", STAYS.format(gate=tmp_path)], driver="local")
        until(lambda: started(ledger), "the start to be recorded")
        with held(ledger):
            (tmp_path / "open").touch()
            assert future.result(60).exit_code == 4
            assert shown(future.id)["state"] == "running"
            with pytest.raises(LedgerError, match="another process holds it locked"):
                runner.run(None, ["touch", f"{tmp_path}/ran"], driver="local")
    assert (shown(future.id)["state"], (tmp_path / "ran").exists()) == ("error", False)
    assert (runner.ledger.unwritten, invariants(ledger)) == ("", 1)


def test_a_call_can_be_cancelled_while_the_ledger_cannot_be_written(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calls.Runner(ledger) as runner:
        impatient(runner.ledger, monkeypatch)
        future = runner.submit(None, ["sleep", "1000"], driver="local")
        until(lambda: started(ledger), "the start to be recorded")
        with held(ledger):
            runner.cancel(future.id)
            assert future.result(60).state == "cancelled"
    assert steps(future.id)[-3:] == ["signalled", "cancelled", "cleaned"]
    assert (shown(future.id)["reason"], invariants(ledger)) == ("user", 1)
