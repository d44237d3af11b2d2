"""Retention: the only thing that deletes. What goes leaves a tombstone, what stays still proves itself."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import BY, COMMAND, OWNER, START, Call, small, uid
from pruning import COUNTS, NOW, OUTPUT, SAMPLES, holds, left, prune, rows
from test_ledger import SAYS
from tombstones import wrong

from ledger import retention
from ledger.ledger import Ledger
from ledger.projection import COLUMNS, Event, fold
from ledger.retention import EVERYTHING, Amount, Step
from ledger.sqlite import connect_writer, sqlite3
from ledger.verify import verify
from machine import facts
from machine.samples import Sample
from machine.states import Kind, Reason, State
from machine.table import STEPS, VERDICTS, step


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Ten calls, nine of them over."""
    small(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


def folded(path: Path, call: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of a call, and what its log as it stands makes."""
    columns = "seq, at, kind, state, elapsed_ns, data, samples, chunks"
    row: dict[str, Any] = {}
    for one in rows(path, f"SELECT {columns} FROM event WHERE call_id = {call} ORDER BY seq"):
        row = fold(row, Event(*one[:2], tuple(Kind)[one[2]], tuple(State)[one[3]], *one[4:]))
    (stored,) = rows(path, f"SELECT {', '.join(COLUMNS)} FROM call WHERE id = {call}")
    return dict(zip(COLUMNS, stored, strict=True)), row


# Any call, pruned in any way.

NUMBERS = count(1)
NOTES = st.tuples(st.integers(0, 3), st.integers(0, 3))
"""How many samples and pieces of output come before an event."""


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[Kind, State, tuple[int, int]]]:
    """A call from its second event to `cleaned`, and notes after it."""
    state, events = State.PREPARING, []
    for _ in range(draw(st.integers(0, 8))):
        kinds = sorted(kind for source, kind in STEPS if source is state and kind not in (Kind.PRUNED, Kind.CLEANED))
        kind = draw(st.sampled_from(kinds))
        state = step(state, kind)
        events.append((kind, state, draw(NOTES)))
    if not state.terminal:
        state = draw(st.sampled_from([end for end in VERDICTS if (state, VERDICTS[end]) in STEPS]))
        events.append((VERDICTS[state], state, draw(NOTES)))
    after = draw(st.lists(st.sampled_from((Kind.GAP, Kind.ADOPTED)), max_size=2))
    return [*events, *((kind, state, draw(NOTES)) for kind in (Kind.CLEANED, *after))]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger for lives."""
    with Ledger(tmp_path_factory.mktemp("lives") / "ledger.db") as ledger:
        yield ledger


def live(ledger: Ledger, events: list[tuple[Kind, State, tuple[int, int]]], tail: tuple[int, int]) -> int:
    """Write a life down; `tail` is what no event covers."""
    name = uid(next(NUMBERS))
    spec = {"image": "i", "timeout": 1}
    submitted = facts.Submitted(uid=name, name="n", image="i", driver="docker", spec=spec, owner=OWNER)
    call = ledger.submit(name, START, submitted.dump())
    offset = 0
    for kind, state, (samples, chunks) in [*events, (None, None, tail)]:
        for number in range(samples):
            ledger.sample(call, START + number, Sample(cpu_total_pct=0.5, mem_usage_bytes=number))
        for _ in range(chunks):
            ledger.output(call, START, 1, offset, b"out\xff")
            offset += 4
        if kind is not None:
            ledger.append(call, kind, state, START + 5, None, SAYS[kind].dump())
    return call


STAGES = st.lists(st.sampled_from((SAMPLES, OUTPUT, SAMPLES | OUTPUT, EVERYTHING)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(lives(), NOTES, STAGES)
def test_whatever_a_call_was_and_however_it_is_pruned_its_row_is_the_fold_of_what_is_left(
    lived: Ledger,
    events: list[tuple[Kind, State, tuple[int, int]]],
    tail: tuple[int, int],
    stages: list[frozenset[str]],
) -> None:
    call = live(lived, events, tail)
    ended = {name: value for name, value in folded(lived.path, call)[0].items() if name.endswith(("_at", "_ns"))}
    lived.append(call, Kind.GAP, None, START, None, SAYS[Kind.GAP].dump())  # durable, with what was queued
    for parts in stages:
        with closing(connect_writer(lived.path)) as connection:
            list(retention.prune(connection, NOW, parts, BY))
            assert list(retention.prune(connection, NOW, parts, BY)) == []
        row, fold_of_log = folded(lived.path, call)
        assert row == fold_of_log
        assert {name: row[name] for name in ended} == ended
        counts = left(lived.path, f"id = {call}")
        assert counts["sample"] == 0 or not parts & (SAMPLES | {"events"})
        assert counts["log"] == 0 or not parts & (OUTPUT | {"events"})
        assert verify(lived.path, [call]).findings == []
    assert wrong(lived.path) == []


# The file's own rules.


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log",
        "DELETE FROM sample WHERE call_id = 10",
        "DELETE FROM sample WHERE call_id = 2",
        "UPDATE event SET data = '{}'",
        "UPDATE event SET data = '{}' WHERE call_id = 1 AND seq = 1",
        "UPDATE event SET data = '{}' WHERE kind = 22",
        "DELETE FROM event WHERE kind = 22",
    ],
)
def test_the_file_lets_go_only_what_a_tombstone_covers(ledger: Path, statement: str) -> None:
    prune(ledger, SAMPLES)
    with closing(connect_writer(ledger)) as connection:
        # A sample after the tombstone: it does not cover that.
        connection.execute("INSERT INTO sample (call_id, seq, at) VALUES (2, 1001, 1)")
        with pytest.raises(sqlite3.IntegrityError, match="is append-only"):
            connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET data = '[]' WHERE call_id = 1 AND seq = 1",
        "UPDATE event SET data = '{}', at = at + 1 WHERE call_id = 1 AND seq = 1",
        "UPDATE event SET data = '{}', elapsed_ns = NULL WHERE call_id = 1 AND seq = 2",
        "UPDATE event SET data = '{}', digest = zeroblob(32) WHERE call_id = 1 AND seq = 1",
        "UPDATE event SET data = '{}' WHERE call_id = 1 AND seq = 6",
        "UPDATE event SET data = '{}' WHERE call_id = 1 AND seq = 7",
        "DELETE FROM event WHERE call_id = 1",
    ],
)
def test_events_can_only_be_emptied_and_those_after_the_tombstone_not_at_all(ledger: Path, statement: str) -> None:
    prune(ledger)
    with Ledger(ledger) as writing:
        writing.append(1, Kind.GAP, None, START, None, SAYS[Kind.GAP].dump())
    with closing(connect_writer(ledger)) as connection, pytest.raises(sqlite3.IntegrityError, match="event is append"):
        connection.execute(statement)


# In batches, beside others, and with accidents.


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction a call."""
    monkeypatch.setattr(retention, "ROWS", 1)


@pytest.mark.usefixtures("one_by_one")
def test_between_two_batches_it_can_be_left(ledger: Path) -> None:
    with closing(connect_writer(ledger)) as connection:
        steps = retention.prune(connection, NOW, EVERYTHING, BY)
        assert [next(steps)[:2], next(steps)[:2]] == [(1, 9), (2, 9)]
        steps.close()
    holds(ledger)
    assert prune(ledger).calls == 7


@pytest.mark.usefixtures("one_by_one")
def test_two_at_once_prune_each_call_once(ledger: Path) -> None:
    with closing(connect_writer(ledger)) as one, closing(connect_writer(ledger)) as two:
        steps = [retention.prune(connection, NOW, EVERYTHING, BY) for connection in (one, two)]
        last: dict[int, Step] = {}
        for number in (0, 1) * 9:
            last[number] = next(steps[number], last.get(number, Step(0, 0, Amount(), ())))
        assert sum(each.removed.calls for each in last.values()) == 9
    assert rows(ledger, "SELECT count(*) FROM event WHERE kind = 22") == [(9,)]
    holds(ledger)


@pytest.mark.usefixtures("one_by_one")
def test_others_write_meanwhile(ledger: Path) -> None:
    errors: list[Exception] = []

    def write() -> None:
        try:
            with Ledger(ledger) as writing:
                for number in range(20, 40):
                    Call(writing, number).start().sample(1, 1).end(State.SUCCESS, Reason.EXIT, exit_code=0)
        except Exception as error:  # noqa: BLE001 - it is what the test is about
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    prune(ledger, before=START + 15 * 60 * 10**9)
    writer.join()
    assert errors == []
    assert rows(ledger, "SELECT count(*) FROM call WHERE cleaned AND pruned IS NULL") == [(20,)]
    holds(ledger)


def failing(path: Path, point: str) -> int:
    """Prune with a failpoint set; -> the exit status."""
    environment = os.environ | {"CALLS_LEDGER": str(path), "CALLS_FAILPOINT": point}
    words = [*COMMAND, "prune", "--older-than", "0s", "--vacuum"]
    return subprocess.run(words, capture_output=True, env=environment, timeout=60, check=False).returncode


def test_killed_at_any_commit_it_leaves_a_ledger_that_holds(ledger: Path, tmp_path: Path) -> None:
    whole = ledger.read_bytes()
    assert failing(ledger, f"trace:{tmp_path}/trace") == 0
    points = sorted(set((tmp_path / "trace").read_text().split()))
    stages = ("begun", "durable", "written")
    assert points == [f"{name}.{stage}" for name in ("prune", "vacuum") for stage in stages]
    for point in points:
        for beside in tmp_path.glob("ledger.db-*"):
            beside.unlink()
        ledger.write_bytes(whole)
        assert failing(ledger, f"{point}:kill9") == -9
        holds(ledger)
        assert failing(ledger, "") == 0
        assert left(ledger) == dict.fromkeys(COUNTS, 0)
        holds(ledger)
