"""`calls prune`: the only thing that deletes. What goes leaves a tombstone, what stays still proves itself."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import BY, COMMAND, OWNER, START, Call, said, small, uid
from test_ledger import SAYS
from tombstones import wrong

from ledger import retention
from ledger.ledger import Ledger
from ledger.projection import COLUMNS, Event, fold
from ledger.read import Reader
from ledger.retention import EVERYTHING, Amount, Step
from ledger.sqlite import connect_reader, connect_writer, sqlite3
from ledger.verify import verify
from machine import facts
from machine.samples import Sample
from machine.states import Kind, Reason, State
from machine.table import STEPS, VERDICTS, step

NOW = START + 10**18
SAMPLES, OUTPUT = frozenset(("samples",)), frozenset(("output",))
COUNTS = {"sample": 1002, "log": 5, "histogram": 720}
"""What the small ledger's ended calls have."""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Ten calls, nine of them over."""
    small(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


def prune(path: Path, parts: Iterable[str] = EVERYTHING, before: int = NOW) -> Amount:
    """Prune to the end; -> what was removed."""
    with closing(connect_writer(path)) as connection:
        steps = list(retention.prune(connection, before, parts, BY))
    assert not any(one.damaged for one in steps)
    return steps[-1].removed if steps else Amount()


def rows(path: Path, query: str) -> list[Any]:
    with closing(connect_reader(path)) as connection:
        return connection.execute(query).fetchall()


def left(path: Path, call: str = "state <> 'paused'") -> dict[str, int]:
    """How many rows calls have left."""
    of = f"WHERE call_id IN (SELECT id FROM call WHERE {call})"
    return {table: rows(path, f"SELECT count(*) FROM {table} {of}")[0][0] for table in COUNTS}


def holds(path: Path) -> None:
    """Everything that the ledger still says is proved: by the recipe, and by the program."""
    assert wrong(path) == []
    assert verify(path).findings == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def folded(path: Path, call: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of a call, and what its log as it stands makes."""
    columns = "seq, at, kind, state, elapsed_ns, data, samples, chunks"
    row: dict[str, Any] = {}
    for one in rows(path, f"SELECT {columns} FROM event WHERE call_id = {call} ORDER BY seq"):
        row = fold(row, Event(*one[:2], tuple(Kind)[one[2]], tuple(State)[one[3]], *one[4:]))
    (stored,) = rows(path, f"SELECT {', '.join(COLUMNS)} FROM call WHERE id = {call}")
    return dict(zip(COLUMNS, stored, strict=True)), row


# What goes, and what stays.

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


def test_without_parts_everything_a_call_has_left_goes(ledger: Path) -> None:
    before = rows(ledger, "SELECT id, call_id, seq, at, kind, state, digest FROM event ORDER BY id")
    amount = prune(ledger)
    assert (amount.calls, amount.events, amount.samples, amount.output, amount.buckets) == (9, 46, 1002, 5, 720)
    assert left(ledger) == dict.fromkeys(COUNTS, 0)
    assert rows(ledger, "SELECT DISTINCT data FROM event WHERE call_id <> 10 AND kind <> 22") == [("{}",)]
    columns = "id, call_id, seq, at, kind, state, digest"
    assert rows(ledger, f"SELECT {columns} FROM event WHERE kind <> 22 ORDER BY id") == before
    holds(ledger)


@pytest.mark.parametrize(
    ("parts", "gone"), [(SAMPLES, {"sample"}), (OUTPUT, {"log"}), (SAMPLES | OUTPUT, {"sample", "log"})]
)
def test_with_parts_only_these_rows_go(ledger: Path, parts: frozenset[str], gone: set[str]) -> None:
    data = rows(ledger, "SELECT data FROM event ORDER BY id")
    prune(ledger, parts)
    assert left(ledger) == {table: 0 if table in gone else number for table, number in COUNTS.items()}
    assert rows(ledger, "SELECT data FROM event WHERE kind <> 22 ORDER BY id") == data
    holds(ledger)


def test_part_after_part_and_then_the_rest(ledger: Path) -> None:
    for parts in (SAMPLES, OUTPUT, EVERYTHING):
        assert prune(ledger, parts).calls
        assert prune(ledger, parts) == Amount()
        holds(ledger)
    tombstones = rows(ledger, "SELECT count(*) FROM event WHERE kind = 22 GROUP BY call_id ORDER BY call_id")
    assert tombstones == [(3,), (2,), (1,), (1,), (1,), (1,), (1,), (1,), (2,)]
    assert prune(ledger, SAMPLES) == prune(ledger, OUTPUT) == Amount()


def test_the_history_outlives_the_samples(ledger: Path) -> None:
    points = "SELECT * FROM histogram_point WHERE call_id = 2 ORDER BY metric, bucket"
    before = rows(ledger, points)
    assert len(before) == 720
    prune(ledger, SAMPLES)
    assert rows(ledger, points) == before


def test_what_lives_or_is_not_settled_or_is_too_young_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        Call(ledger, 1).start().sample(1, 1).write(1, 0, b"live")
        Call(ledger, 2).start().sample(1, 1).verdict(State.SUCCESS, Reason.EXIT, exit_code=0)
        young = Call(ledger, 3).start().sample(1, 1).verdict(State.SUCCESS, Reason.EXIT, exit_code=0)
        young.note(facts.Cleaned(removed=True))
        ended = young.at
    dump = rows(path, "SELECT * FROM event") + rows(path, "SELECT * FROM sample")
    for parts in (SAMPLES, OUTPUT, EVERYTHING):
        assert prune(path, parts, before=ended - 1) == Amount()
    assert rows(path, "SELECT * FROM event") + rows(path, "SELECT * FROM sample") == dump
    assert prune(path, before=ended).calls == 1


def test_what_came_after_the_last_event_goes_under_the_tombstone_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        call = Call(ledger, 1).start().sample(1, 1).end(State.SUCCESS, Reason.EXIT, exit_code=0)
        call.sample(2, 2).write(1, 0, b"late")
    prune(path)
    ((data,),) = rows(path, "SELECT data FROM event WHERE kind = 22")
    assert [list(json.loads(data)[part]) for part in ("samples", "output")] == [["4", "6"], ["6"]]
    holds(path)


def test_a_damaged_call_is_left_alone(ledger: Path) -> None:
    with closing(connect_writer(ledger)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET data = replace(data, '3', '4') WHERE call_id = 3 AND seq = 4")
    before = rows(ledger, "SELECT * FROM event WHERE call_id = 3")
    status, out, err = said(ledger, "prune", "--older-than", "0s")
    assert (status, out.startswith("pruned 8 calls: ")) == (1, True)
    assert err.startswith(f"calls: {uid(2)} is damaged and stays as it is: event 4: ")
    assert rows(ledger, "SELECT * FROM event WHERE call_id = 3") == before


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


# The command.


def test_a_dry_run_says_what_would_go_and_changes_nothing(ledger: Path) -> None:
    before = list(rows(ledger, "SELECT * FROM event"))
    status, out, err = said(ledger, "prune", "--older-than", "0s", "--dry-run", "--json")
    told = json.loads(out)
    assert (status, err, told.pop("dry_run")) == (0, "", True)
    assert list(rows(ledger, "SELECT * FROM event")) == before
    did = json.loads(said(ledger, "prune", "--older-than", "0s", "--json")[1])
    assert (did.pop("dry_run"), did) == (False, told)


def test_it_says_what_went(ledger: Path) -> None:
    assert said(ledger, "prune", "--older-than", "0s", "--samples") == (
        0,
        "pruned 2 calls: 1002 samples, about 75.3KiB\n",
        "",
    )


@pytest.mark.parametrize("more", [(), ("--samples",), ("--dry-run",)])
def test_nothing_to_prune(ledger: Path, more: tuple[str, ...]) -> None:
    status, out, err = said(ledger, "prune", "--older-than", "100000d", *more)
    assert (status, err) == (0, "")
    assert out == "nothing to prune among calls that ended more than 100000d ago\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "Missing option '--older-than'."),
        (("--older-than", "soon"), "--older-than: 'soon' is not a duration (write 90s, 5m, 1h30m or 250ms)"),
        (("--older-than", "1d", "--dry-run", "--vacuum"), "--dry-run and --vacuum exclude each other"),
    ],
)
def test_what_is_asked_wrongly(ledger: Path, words: tuple[str, ...], line: str) -> None:
    assert said(ledger, "prune", *words) == (2, "", f"calls: {line} (see calls prune --help)\n")


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    status, out, err = said(tmp_path / "none.db", "prune", "--older-than", "1d")
    assert (status, out, err.startswith("calls: no ledger at ")) == (2, "", True)
    assert not (tmp_path / "none.db").exists()


def test_vacuum_makes_the_file_smaller_even_when_nothing_was_pruned(ledger: Path) -> None:
    prune(ledger)
    size = ledger.stat().st_size
    told = json.loads(said(ledger, "prune", "--older-than", "100000d", "--vacuum", "--json")[1])
    assert (told["calls"], told["returned_bytes"]) == (0, size - ledger.stat().st_size)
    assert told["returned_bytes"] > 50_000
    assert rows(ledger, "PRAGMA freelist_count") == [(0,)]
    holds(ledger)


@pytest.mark.parametrize("parts", [(), ("--samples",), ("--output",)])
@pytest.mark.parametrize("command", ["show", "events", "logs", "stats", "wait"])
def test_what_is_pruned_can_still_be_looked_at(ledger: Path, parts: tuple[str, ...], command: str) -> None:
    said(ledger, "prune", "--older-than", "0s", *parts)
    for number in range(1, 10):
        status, _, err = said(ledger, command, uid(number)[-12:])
        assert (status, "Traceback" in err) == (0, False)


def test_the_commands_say_that_something_was_pruned(ledger: Path) -> None:
    said(ledger, "prune", "--older-than", "0s")
    call = uid(9)[-12:]
    assert "pruned     events, output\n" in said(ledger, "show", call)[1]
    assert said(ledger, "logs", call) == (0, "", "calls: the output of this call was pruned\n")
    assert "samples  1000, pruned\n" in said(ledger, "stats", uid(7)[-12:])[1]
    with Reader(ledger) as reader:
        assert reader.show(uid(7))["pruned"] == ["events", "samples"]
        assert reader.show(uid(10))["pruned"] == []
