"""The log keeps its own promises: nobody changes it, everything else follows from it, and a chain runs through it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from chain import breaks
from hypothesis import given
from hypothesis import strategies as st
from ledgers import BY, OWNER, START, Call, uid

from ledger.ledger import Ledger
from ledger.projection import COLUMNS, Event, fold
from ledger.sqlite import connect_reader
from machine import facts
from machine.errors import RefusedError
from machine.facts import Ended
from machine.states import Kind, Reason, State
from machine.table import STEPS, VERDICTS, step

ENDS = {
    State.SUCCESS: Reason.EXIT,
    State.ERROR: Reason.LOST,
    State.TIMEOUT: Reason.DEADLINE,
    State.KILLED: Reason.OOM,
    State.CANCELLED: Reason.USER,
}
SAYS: dict[Kind, facts.Fact | Ended] = {
    Kind.PREPARED: facts.Prepared(container="c", image_id="i", image_digest="d"),
    Kind.STARTED: facts.Started(engine_at=START, pid=1),
    Kind.HEALTH_AWAITED: facts.HealthAwaited(limit=1),
    Kind.HEALTHY: facts.Healthy(),
    Kind.PAUSED: facts.Paused(),
    Kind.RESUMED: facts.Resumed(),
    Kind.PULLED: facts.Pulled(image="busybox", seconds=0.5),
    Kind.SIGNALLED: facts.Signalled(signal="TERM", why="cancel"),
    Kind.CANCEL_REQUESTED: facts.CancelRequested(by=BY),
    Kind.KILL_REQUESTED: facts.KillRequested(by=BY, signal="KILL"),
    Kind.HEALTH_CHANGED: facts.HealthChanged(status="starting", output="é‹›"),
    Kind.OOM_SEEN: facts.OomSeen(source="event"),
    Kind.GAP: facts.Gap(of="events", since=1, until=2, why="lost"),
    Kind.OUTPUT_CUT: facts.OutputCut(stream="stdout", offset=1, lost=2),
    Kind.CLEANED: facts.Cleaned(removed=True),
    Kind.ADOPTED: facts.Adopted(owner=OWNER.replace(runner="another"), previous="runner", why="its runner is gone"),
    Kind.PRUNED: facts.Pruned(by=BY, samples={"5": "00"}),
    Kind.ADMITTED: facts.Admitted(waited=1, lacking=("memory",)),
    Kind.PULL_PROGRESSED: facts.PullProgressed(image="busybox", current=1, total=2),
    Kind.PAUSE_REQUESTED: facts.PauseRequested(by=BY),
    Kind.RESUME_REQUESTED: facts.ResumeRequested(by=BY),
    Kind.SIGNAL_REQUESTED: facts.SignalRequested(by=BY, signal="HUP"),
    Kind.EXECUTED: facts.Executed(by=BY, command=("true",), exit_code=0, seconds=0.5),
    Kind.LISTED: facts.Listed(by=BY),
    **{VERDICTS[state]: Ended(reason=reason, exit_code=3, oom="likely") for state, reason in ENDS.items()},
}
"""What an event of each kind says."""

INSERT_EVENT = (
    "INSERT {how} INTO event (call_id, seq, at, kind, state, data, samples, chunks, digest) "
    "VALUES ({call}, {seq}, 1, {kind}, {state}, '{{}}', 0, 0, zeroblob(32))"
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger as any other program opens it: without our pragmas. Call 1 runs (3 events), call 2 is over (5)."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        Call(ledger, 1, "one").start().sample(0.5, 1024).write(1, 0, b"out")
        Call(ledger, 2, "two").start().sample(0.5, 1024).write(1, 0, b"out").end(
            State.SUCCESS, Reason.EXIT, exit_code=0
        )
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        yield connection


def refused(db: sqlite3.Connection, statement: str) -> str:
    """What is said to a statement that must not be carried out; nothing may have changed."""
    before = list(db.iterdump())
    with pytest.raises(sqlite3.IntegrityError) as error:
        db.execute(statement)
    assert list(db.iterdump()) == before
    return str(error.value)


def event(seq: int, kind: Kind, state: State, call: int = 1, how: str = "") -> str:
    """A statement that appends an event to a call."""
    return INSERT_EVENT.format(how=how, call=call, seq=seq, kind=kind.code, state=state.code)


# Append-only.


@pytest.mark.parametrize("table", ["event", "sample", "log"])
def test_no_row_of_the_log_can_be_changed(db: sqlite3.Connection, table: str) -> None:
    assert refused(db, f"UPDATE {table} SET at = at + 1 WHERE call_id = 1") == f"{table} is append-only"


@pytest.mark.parametrize("table", ["event", "sample", "log"])
def test_no_row_of_the_log_can_be_deleted(db: sqlite3.Connection, table: str) -> None:
    assert refused(db, f"DELETE FROM {table} WHERE call_id = 1 AND seq = 1") == f"{table} is append-only"


@pytest.mark.parametrize("table", ["event", "sample", "log"])
@pytest.mark.parametrize("how", ["INSERT OR REPLACE", "REPLACE", "INSERT"])
def test_no_row_of_the_log_can_be_put_in_the_place_of_another(db: sqlite3.Connection, table: str, how: str) -> None:
    refused(db, f"{how} INTO {table} SELECT * FROM {table} WHERE call_id = 1 AND seq = 1")


def test_an_event_cannot_take_the_row_of_another_call(db: sqlite3.Connection) -> None:
    statement = event(1, Kind.SUBMITTED, State.PREPARING, call=9, how="OR REPLACE")
    refused(db, statement.replace("(call_id", "(id, call_id").replace("VALUES (", "VALUES (1, "))


def test_output_cannot_take_the_row_of_another_call(db: sqlite3.Connection) -> None:
    columns = "rowid, call_id, seq, at, stream, offset_bytes, data"
    refused(db, f"INSERT OR REPLACE INTO log ({columns}) VALUES (1, 9, 1, 1, 1, 0, x'00')")


@pytest.mark.parametrize("seq", [0, 1, 3, 5, 99])
@pytest.mark.parametrize("how", ["", "OR REPLACE", "OR IGNORE"])
def test_an_event_cannot_leave_a_gap_or_come_twice(db: sqlite3.Connection, seq: int, how: str) -> None:
    assert refused(db, event(seq, Kind.GAP, State.RUNNING, how=how)) == "event does not continue its call"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", Kind)
def test_the_file_itself_takes_an_event_exactly_by_the_table(db: sqlite3.Connection, kind: Kind, state: State) -> None:
    if STEPS.get((State.RUNNING, kind)) is state:
        db.execute(event(4, kind, state))
    else:
        assert refused(db, event(4, kind, state)) == "event does not continue its call"


@pytest.mark.parametrize("kind", Kind)
def test_after_the_end_the_file_takes_only_notes(db: sqlite3.Connection, kind: Kind) -> None:
    if (State.SUCCESS, kind) in STEPS:
        db.execute(event(6, kind, State.SUCCESS, call=2))
    else:
        assert refused(db, event(6, kind, State.SUCCESS, call=2)) == "event does not continue its call"


def test_a_call_begins_with_its_submission(db: sqlite3.Connection) -> None:
    assert refused(db, event(1, Kind.PREPARED, State.PREPARED, call=9)) == "event does not continue its call"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO sample (call_id, seq, at, pids) VALUES (1, 2, 1, 'many')",
        "INSERT INTO sample (call_id, seq, at, mem_usage_bytes) VALUES (1, 2, 1, 0.5)",
        "INSERT INTO log VALUES (1, 2, 1, 3, 0, x'00')",
        "INSERT INTO log VALUES (1, 2, 1, 1, -1, x'00')",
        "INSERT INTO log VALUES (1, 2, 1, 1, 0, 'text')",
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(db: sqlite3.Connection, statement: str) -> None:
    refused(db, statement)


# The projection.


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger for walks."""
    with Ledger(tmp_path_factory.mktemp("walks") / "ledger.db") as ledger:
        yield ledger


Step = tuple[Kind, State, int, int | None]
NUMBERS = count(1)


@st.composite
def walks(draw: st.DrawFn) -> list[Step]:
    """A legal walk: kind, state, time and time since the last move of each event after the first."""
    state, steps = State.PREPARING, []
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(sorted(kind for source, kind in STEPS if source is state)))
        state = step(state, kind)
        at = START + draw(st.integers(-5, 50))  # the clock may be set back
        steps.append((kind, state, at, draw(st.none() | st.integers(0, 10))))
    return steps


def walk(ledger: Ledger, steps: list[Step]) -> tuple[dict[str, Any], list[Event]]:
    """The walk as recorded: the call's row and its events."""
    name = uid(next(NUMBERS))
    submitted = facts.Submitted(uid=name, name="n", image="i", driver="docker", spec={"image": "i"}, owner=OWNER)
    call = ledger.submit(name, START, submitted.dump())
    for kind, state, at, elapsed in steps:
        ledger.append(call, kind, state, at, elapsed, SAYS[kind].dump())
    with closing(connect_reader(ledger.path)) as connection:  # by the build that wrote it, which has it open
        row = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM call WHERE id = ?", (call,)).fetchone()
        columns = "seq, at, kind, state, elapsed_ns, data, samples, chunks"
        rows = connection.execute(f"SELECT {columns} FROM event WHERE call_id = ? ORDER BY seq", (call,)).fetchall()
    events = [Event(*one[:2], tuple(Kind)[one[2]], tuple(State)[one[3]], *one[4:]) for one in rows]
    return dict(zip(COLUMNS, row, strict=True)), events


@given(walks())
def test_the_row_of_a_call_is_the_fold_of_its_events(walked: Ledger, steps: list[Step]) -> None:
    row, events = walk(walked, steps)
    folded: dict[str, Any] = {}
    for one in events:
        folded = fold(folded, one)
    assert row == folded


@given(walks())
def test_the_time_in_each_state_is_the_sum_of_what_was_measured(walked: Ledger, steps: list[Step]) -> None:
    spent, before, entered = dict.fromkeys((one for one in State if not one.terminal), 0), State.PREPARING, START
    for _, state, at, elapsed in steps:
        if state is not before:
            spent[before] += max(0, at - entered) if elapsed is None else elapsed
            before, entered = state, at
    row, _ = walk(walked, steps)
    assert {state: row[f"{state.replace('-', '_')}_ns"] for state in spent} == spent


@given(walks())
def test_the_verdict_in_the_row_is_that_of_the_terminal_event_and_stays(walked: Ledger, steps: list[Step]) -> None:
    row, _ = walk(walked, steps)
    ends = [(str(state), at) for kind, state, at, _ in steps if kind in VERDICTS.values()]
    assert [(row["state"], row["ended_at"])] == (ends or [(str(steps[-1][1] if steps else State.PREPARING), None)])


@given(walks())
def test_a_chain_runs_through_the_walk(walked: Ledger, steps: list[Step]) -> None:
    row, events = walk(walked, steps)
    assert [one.seq for one in events] == list(range(1, row["events"] + 1))
    assert breaks(walked.path, row["uid"]) == []


def test_a_uid_cannot_be_submitted_twice(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        Call(ledger, 1, "first")
        with pytest.raises(RefusedError):
            Call(ledger, 1, "second")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT id, name FROM call").fetchall() == [(1, "first")]
