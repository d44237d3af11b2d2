"""`calls prune`: what goes and what stays, and what the commands say of it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import BY, Call, said, small, uid
from pruning import COUNTS, NOW, OUTPUT, SAMPLES, holds, left, prune, rows

from ledger import retention
from ledger.ledger import Ledger
from ledger.read import Reader
from ledger.retention import EVERYTHING, Amount
from ledger.sqlite import connect_writer
from machine import facts
from machine.states import Reason, State


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Ten calls, nine of them over."""
    small(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


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


def test_a_false_verdict_is_not_made_true_by_pruning_though_rows_came_late(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        Call(ledger, 1).start().end(State.ERROR, Reason.EXIT, exit_code=3).sample(2, 2)
    with closing(connect_writer(path)) as connection:
        connection.execute("UPDATE call SET exit_code = 0")
        (step,) = retention.prune(connection, NOW, EVERYTHING, BY)
    assert [finding.what for finding in step.damaged] == ["call.exit_code is 0, its events say 3"]
    assert rows(path, "SELECT count(*) FROM event WHERE kind = 22") == [(0,)]


def test_a_damaged_call_is_left_alone(ledger: Path) -> None:
    with closing(connect_writer(ledger)) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("UPDATE event SET data = replace(data, '3', '4') WHERE call_id = 3 AND seq = 4")
    before = rows(ledger, "SELECT * FROM event WHERE call_id = 3")
    status, out, err = said(ledger, "prune", "--older-than", "0s")
    assert (status, out.startswith("pruned 8 calls: ")) == (1, True)
    assert err.startswith(f"calls: {uid(2)} is damaged and stays as it is: event 4: ")
    assert rows(ledger, "SELECT * FROM event WHERE call_id = 3") == before


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


def test_what_is_returned_is_by_how_much_the_ledger_is_smaller_than_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        for number in range(100):  # so short that a tombstone takes more than what it covers
            Call(ledger, number).end(State.ERROR, Reason.LOST, never_ran=True)
    size = path.stat().st_size
    told = json.loads(said(path, "prune", "--older-than", "0s", "--vacuum", "--json")[1])
    assert (told["calls"], told["returned_bytes"]) == (100, 0)
    assert path.stat().st_size > size


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
