"""While the ledger cannot be written: what is under way is kept beside it, and what is new is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import BY, OWNER, START, Call, uid
from running import until

from ledger import failpoint, queue, writer
from ledger.ledger import Ledger
from ledger.sqlite import connect_reader, sqlite3
from machine import facts
from machine.errors import LedgerError
from machine.samples import Sample
from machine.states import Kind, Reason, State

OTHER = facts.Owner(runner="other", host="host", boot="boot", pid=3, pid_started=3)
LOCKED = "database is locked (another process holds it locked; try again)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is not waited for, so that the tests need not."""
    monkeypatch.setattr(writer, "BUSY_MS", 10)
    monkeypatch.setattr(writer, "BRIEF_MS", 10)


def rows(path: Path, query: str) -> list[Any]:
    with closing(connect_reader(path)) as connection:
        return connection.execute(query).fetchall()


def log(path: Path) -> list[tuple[str, int, int]]:
    """Every event: its kind, and how many samples and pieces of output stood before it."""
    query = "SELECT kind.name, samples, chunks FROM event JOIN kind ON kind.code = event.kind ORDER BY event.id"
    return [tuple(row) for row in rows(path, query)]


def lines(path: Path, runner: str = "runner") -> list[dict[str, Any]]:
    """What is in the spool of a runner."""
    content = Path(f"{path}-spool-{runner}").read_bytes().partition(b"\0")[0]
    return [json.loads(line) for line in content.splitlines()][1:]


def spools(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.glob("*-spool-*"))


@contextmanager
def opened(path: Path, owner: facts.Owner = OWNER) -> Iterator[tuple[Ledger, list[str]]]:
    """A runner's ledger that soon gives up waiting for a lock, and its warnings."""
    warned: list[str] = []
    with Ledger(path, owner=owner, warn=warned.append) as ledger:
        ledger._writer._connection.execute("PRAGMA busy_timeout = 10")
        yield ledger, warned


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds the ledger."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def arm(monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    monkeypatch.setattr(failpoint, "_ARMED", [point.partition(":") for point in points])
    failpoint._passed.clear()


def finish(call: Call) -> None:
    call.end(State.ERROR, Reason.EXIT, exit_code=3)


# Kept, and taken in when it can be written again.


def test_what_happens_while_the_ledger_is_locked_is_kept_beside_it_and_taken_in_in_its_order(ledger: Path) -> None:
    with opened(ledger) as (ours, warned):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.sample(0.5, 1024).write(1, 0, b"one").note(facts.Paused())
            call.write(1, 3, b"two").later(1).note(facts.Resumed()).sample(0.75, 2048)
            finish(call)
            kept = [(line["call"], line["call_id"], line["kind"], line["state"]) for line in lines(ledger)]
            written = log(ledger)
        until(lambda: len(log(ledger)) == 7, "what was kept to be taken in")
        until(lambda: lines(ledger) == [], "the spool to be emptied after that")
    assert written == [("submitted", 0, 0), ("prepared", 0, 0), ("started", 0, 0)]
    kinds = [("paused", "paused"), ("resumed", "running"), ("failed", "error"), ("cleaned", "error")]
    assert kept == [(uid(1), 1, *kind) for kind in kinds]
    assert log(ledger)[3:] == [("paused", 1, 1), ("resumed", 1, 2), ("failed", 2, 2), ("cleaned", 2, 2)]
    assert rows(ledger, "SELECT state, exit_code, paused_ns FROM call") == [("error", 3, 10**9)]
    assert (breaks(ledger), warned, spools(ledger)) == ([], [], [])


def test_a_new_call_is_refused_meanwhile_and_leaves_no_trace(ledger: Path) -> None:
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            with pytest.raises(LedgerError) as refused:
                Call(ours, 2)
        until(lambda: len(log(ledger)) == 4, "what was kept to be taken in")
        assert Call(ours, 3).id == 2
    assert str(refused.value) == f"cannot use the ledger {ledger}: {LOCKED}"
    assert rows(ledger, "SELECT uid FROM call") == [(uid(1),), (uid(3),)]


def test_what_somebody_else_says_of_a_call_is_refused_meanwhile(ledger: Path) -> None:
    asked = facts.CancelRequested(by=BY)
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            with pytest.raises(LedgerError, match="locked"):
                ours.append(call.id, asked.kind, None, START, None, asked.dump())
    assert [kind for kind, _, _ in log(ledger)] == ["submitted", "prepared", "started", "paused"]


def test_without_an_owner_there_is_no_spool_and_the_error_is_told(ledger: Path) -> None:
    with Ledger(ledger) as ours:
        ours._writer._connection.execute("PRAGMA busy_timeout = 10")
        call = Call(ours, 1).start().sample(0.5, 1024)
        with locked(ledger), pytest.raises(LedgerError, match="locked"):
            call.note(facts.Paused())
        call.note(facts.Paused())
    assert log(ledger)[3:] == [("paused", 1, 0)]


def test_a_commit_that_says_it_failed_and_did_not_is_not_repeated(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start().sample(0.5, 1).write(1, 0, b"one")
        arm(monkeypatch, "paused.durable:enospc")
        call.note(facts.Paused()).sample(0.75, 2).write(1, 3, b"two").note(facts.Resumed())
    assert log(ledger)[3:] == [("paused", 1, 1), ("resumed", 2, 2)]
    assert rows(ledger, "SELECT mem_usage_bytes FROM sample ORDER BY seq") == [(1,), (2,)]
    assert breaks(ledger) == []


def test_two_events_that_are_alike_are_two(ledger: Path) -> None:
    gap = facts.Gap(of="events", since=1, until=2, why="a test")
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(gap).note(gap)
    assert [kind for kind, _, _ in log(ledger)].count("gap") == 2


class Note(facts.Gap):
    """A gap that says its number."""

    def __init__(self, number: int) -> None:
        super().__init__(of="events", since=number, until=number, why="a test")


@settings(max_examples=60)
@given(steps=st.lists(st.sampled_from(["event", "sample", "output", "lock", "unlock", "stop"]), max_size=25))
def test_however_often_it_is_locked_the_log_is_that_of_a_ledger_that_never_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("steps") / "ledger.db"
    seen, expected, samples, chunks = [], [], 0, 0
    with opened(path) as (ours, _), closing(sqlite3.connect(path, isolation_level=None)) as other:
        call = Call(ours, 1)
        for number, step in enumerate(steps):
            if step == "event":
                call.note(Note(number))
                expected.append((number, samples, chunks))
            elif step == "sample":
                samples += ours.sample(call.id, START + number, Sample(pids=number))
            elif step == "output":
                call.write(1, 8 * chunks, b"8 bytes.")
                chunks += 1
            elif step == "lock" and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")
            elif step == "unlock" and other.in_transaction:
                other.execute("ROLLBACK")
            else:
                ours._writer._again_at = 0.0  # try again with whatever comes next
        if other.in_transaction:
            other.execute("ROLLBACK")
    query = "SELECT data ->> 'since', samples, chunks FROM event WHERE seq > 1 ORDER BY seq"
    seen = [tuple(row) for row in rows(path, query)]
    assert seen == expected
    assert rows(path, "SELECT count(*), max(seq) FROM sample")[0] == (samples, samples or None)
    assert rows(path, "SELECT count(*), max(seq) FROM log")[0] == (chunks, chunks or None)
    assert (breaks(path), spools(path)) == ([], [])


# Bounds.


def test_samples_beyond_the_bound_are_dropped_and_counted(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_SAMPLES", 5)
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            taken = [ours.sample(call.id, START, Sample(pids=number)) for number in range(8)]
            assert (taken, ours.dropped(call.id)) == ([True] * 5 + [False] * 3, 3)
    assert rows(ledger, "SELECT pids FROM sample ORDER BY seq") == [(number,) for number in range(5)]


def test_output_beyond_the_bound_is_counted_as_lost_and_nobody_waits(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_CHUNK_BYTES", 10)
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            for number in range(5):
                call.write(1, number * 8, b"8 bytes.")
            assert ours.lost_output(call.id) == 3 * 8
    assert rows(ledger, "SELECT offset_bytes FROM log ORDER BY seq") == [(0,), (8,)]


def test_events_beyond_the_reserve_are_kept_as_long_as_the_disk_has_room(ledger: Path) -> None:
    long = facts.Gap(of="events", since=1, until=1, why="x" * 100_000)
    with opened(ledger) as (ours, _):
        call = Call(ours, 1)
        with locked(ledger):
            for _ in range(5):
                call.note(long)
    assert len(log(ledger)) == 6


# Left behind, and taken in by the next start.


def left_behind(path: Path) -> Ledger:
    """A call that ended while the ledger was locked, and so did its runner."""
    with opened(path) as (ours, _):
        call = Call(ours, 1).start()
        with locked(path):
            call.note(facts.Paused()).sample(0.5, 1024).write(1, 0, b"12345").later(1).sample(0.75, 1024)
            finish(call)
            ours._writer._be_patient = lambda _: None  # type: ignore[method-assign] # nor at the end
            ours.close()
    return ours


def test_what_is_never_written_is_told_and_the_next_start_takes_it_in(ledger: Path) -> None:
    ours = left_behind(ledger)
    assert [kind for kind, _, _ in log(ledger)] == ["submitted", "prepared", "started"]
    assert ours.unwritten == (
        f"cannot use the ledger {ledger}: {LOCKED}; "
        f"what was missing is in {ledger}-spool-runner and is taken in at the next start"
    )
    with opened(ledger, OTHER) as (_, warned):
        pass
    kinds = [kind for kind, _, _ in log(ledger)]
    assert kinds == ["submitted", "prepared", "started", "paused", "failed", "cleaned", "gap", "gap"]
    assert rows(ledger, "SELECT state, exit_code FROM call") == [("error", 3)]
    lost = "SELECT data ->> 'of', data ->> 'lost', data ->> 'why' FROM event WHERE kind = 18"
    why = "the ledger could not be written"
    assert rows(ledger, lost) == [("samples", 2, why), ("output", 5, why)]
    assert (breaks(ledger), warned, spools(ledger)) == ([], [], [])


def test_the_warning_is_what_is_said_to_be_unwritten(ledger: Path) -> None:
    with opened(ledger) as (ours, warned):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            ours._writer._be_patient = lambda _: None  # type: ignore[method-assign]
            ours.close()
    assert warned == [ours.unwritten]


def test_a_spool_is_for_its_owner_only_and_goes_when_it_is_empty(ledger: Path) -> None:
    with opened(ledger) as (ours, _):
        assert spools(ledger) == []
        Call(ours, 1)
        assert stat.S_IMODE(Path(f"{ledger}-spool-runner").stat().st_mode) == 0o600
    assert spools(ledger) == []


def test_the_spool_of_a_runner_that_lives_is_left_alone(ledger: Path) -> None:
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        with locked(ledger):
            call.note(facts.Paused())
            kept = lines(ledger)
        ours._writer._again_at = float("inf")
        with opened(ledger, OTHER) as (_, warned):
            assert lines(ledger) == kept
    assert (len(log(ledger)), warned, spools(ledger)) == (4, [], [])


def test_what_was_taken_in_once_is_not_taken_in_again(ledger: Path) -> None:
    left_behind(ledger)
    place = Path(f"{ledger}-spool-runner")
    content = place.read_bytes()
    for _ in range(3):
        opened(ledger, OTHER).__enter__()[0].close()
        assert not place.exists()
        place.write_bytes(content)
    assert len(log(ledger)) == 8


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_line_that_is_not_whole_was_not_promised_and_is_ignored(ledger: Path, cut: int) -> None:
    left_behind(ledger)
    place = Path(f"{ledger}-spool-runner")
    content = place.read_bytes().partition(b"\0")[0]
    begin = content.index(b'"kind":"cleaned"')
    place.write_bytes(content[: begin - 60 + cut])
    with opened(ledger, OTHER) as (_, warned):
        pass
    assert [kind for kind, _, _ in log(ledger)][3:] == ["paused", "failed", "gap"]
    assert rows(ledger, "SELECT data ->> 'why' FROM event WHERE kind = 18") == [
        ("the ledger could not be written, and then its runner died",)
    ]
    assert (warned, spools(ledger)) == ([], [])


def test_what_the_log_refuses_by_then_is_kept_in_a_gap(ledger: Path) -> None:
    left_behind(ledger)
    with Ledger(ledger) as theirs:
        ended = facts.Ended(reason=Reason.LOST).dump()
        theirs.append(1, Kind.FAILED, State.ERROR, START, None, ended)
    with opened(ledger, OTHER) as (_, warned):
        pass
    refused = [why for (why,) in rows(ledger, "SELECT data ->> 'why' FROM event WHERE kind = 18 ORDER BY seq")]
    assert [why.partition(" was refused ")[0] for why in refused[:2]] == ["paused", "failed"]
    assert '"exit_code":3' in refused[1]
    assert rows(ledger, "SELECT state, reason FROM call") == [("error", "lost")]
    assert (breaks(ledger), warned, spools(ledger)) == ([], [], [])


def test_events_of_a_call_that_was_taken_over_are_kept_in_gaps(ledger: Path) -> None:
    left_behind(ledger)
    with Ledger(ledger) as theirs:
        theirs.adopt(1, "runner", START, facts.Adopted(owner=OTHER, previous="runner", why="a test").dump())
    opened(ledger, OTHER).__enter__()[0].close()
    kinds = [kind for kind, _, _ in log(ledger)]
    assert kinds == ["submitted", "prepared", "started", "adopted"] + ["gap"] * 5
    assert rows(ledger, "SELECT state FROM call") == [("running",)]


def renamed(path: Path) -> str:
    first, _, rest = Path(f"{path}-spool-runner").read_bytes().partition(b"\n")
    line = json.dumps({**json.loads(first), "ledger": "another"}).encode()
    Path(f"{path}-spool-runner").write_bytes(line + b"\n" + rest)
    return "it is another ledger's"


def spoilt(path: Path) -> str:
    content = Path(f"{path}-spool-runner").read_bytes()
    Path(f"{path}-spool-runner").write_bytes(content.replace(b'"kind":"failed"', b'"kind":"fouled"'))
    return "a line cannot be read ('fouled' is not a valid Kind)"


def of_another_call(path: Path) -> str:
    content = Path(f"{path}-spool-runner").read_bytes()
    Path(f"{path}-spool-runner").write_bytes(content.replace(uid(1).encode(), uid(2).encode()))
    return "5 of its events belong to no call of this ledger"


@pytest.mark.parametrize("change", [renamed, spoilt, of_another_call])
def test_what_cannot_be_taken_in_stays_where_it_is_and_is_told(ledger: Path, change: Callable[[Path], str]) -> None:
    left_behind(ledger)
    fault = change(ledger)
    before = Path(f"{ledger}-spool-runner").read_bytes()
    for _ in range(2):
        with opened(ledger, OTHER) as (_, warned):
            pass
        line = f"{ledger}-spool-runner holds what could not be written once, and cannot be taken in: {fault}"
        assert warned == [line]
        assert Path(f"{ledger}-spool-runner").read_bytes() == before
    assert [kind for kind, _, _ in log(ledger)] == ["submitted", "prepared", "started"]


def test_the_empty_spool_of_a_runner_that_is_gone_is_removed(ledger: Path) -> None:
    with opened(ledger):
        pass
    Path(f"{ledger}-spool-gone").write_bytes(b'{"ledger":"any","runner":"gone"}\n' + bytes(1000))
    opened(ledger).__enter__()[0].close()
    assert spools(ledger) == []


def test_a_call_that_another_runner_began_and_this_one_adopted_is_kept_as_well(ledger: Path) -> None:
    with opened(ledger) as (theirs, _):
        call = Call(theirs, 1).start()
    with opened(ledger, OTHER) as (ours, _):
        adopted = facts.Adopted(owner=OTHER, previous="runner", why="a test")
        ours.adopt(call.id, "runner", START, adopted.dump())
        call.ledger = ours
        with locked(ledger):
            call.note(facts.Paused())
            assert [(line["call"], line["kind"]) for line in lines(ledger, "other")] == [(uid(1), "paused")]
    assert [kind for kind, _, _ in log(ledger)][-2:] == ["adopted", "paused"]


def test_what_happens_while_the_ledger_is_moved_away_is_kept_where_it_was_and_taken_in_when_it_is_back(
    ledger: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        files = [found for found in tmp_path.glob("ledger.db*") if "spool" not in found.name]
        for found in files:
            found.rename(away / found.name)
        call.sample(0.5, 1024).note(facts.Paused())
        kept = [line["kind"] for line in lines(ledger)]
        for found in files:
            (away / found.name).rename(found)
    assert kept == ["paused"]
    assert log(ledger)[3:] == [("paused", 1, 0)]


# Nowhere to write at all.


def test_when_the_spool_cannot_be_written_either_the_error_is_told(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(ledger) as (ours, _):
        call = Call(ours, 1).start()
        arm(monkeypatch, "spool.begun:enospc")
        with locked(ledger), pytest.raises(LedgerError, match="make room and try again"):
            call.note(facts.Paused())
        arm(monkeypatch)
        call.note(facts.Paused())
    assert [kind for kind, _, _ in log(ledger)][3:] == ["paused"]


def test_no_call_begins_without_room_for_its_last_words(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(ledger) as (ours, _):
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(LedgerError, match="No space left on device"):
            Call(ours, 1)
        monkeypatch.undo()
        assert Call(ours, 1).id == 1
    assert spools(ledger) == []
