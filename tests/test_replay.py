"""The log folded again: whole ledgers against what is stored, and one call as it stood at any moment."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ledgers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invariants import invariants
from ledgers import BY, MIB, OWNER, START, Call, uid
from test_ledger import Step, walk, walks
from varied import EMPTIED, PLAIN, THINNED, varied

from ledger.ledger import Ledger
from ledger.moment import Log
from ledger.projection import COLUMNS, Event, fold
from ledger.read import Reader
from ledger.replay import Folded, check
from ledger.sqlite import sqlite3
from machine import facts
from machine.errors import LedgerError, UsageError
from machine.states import Kind, Reason, State
from machine.table import VERDICTS
from machine.units import SECOND

MS = SECOND // 1000


def tamper(path: Path, *statements: str) -> None:
    """Change what nobody may change."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for statement in (*(f"DROP TRIGGER {name}" for (name,) in triggers), *statements):
            db.execute(statement)


def found(folded: Folded) -> list[tuple[str, int | None, str]]:
    """Where the differences are: call, event, column."""
    return [difference[:3] for difference in folded.differences]


@pytest.fixture
def small(ledger: Path) -> Path:
    """The small ledger, to be changed."""
    ledgers.small(ledger)
    return ledger


# Whole ledgers.


@pytest.mark.parametrize("make", [ledgers.small, varied])
def test_a_ledger_folds_to_what_is_stored(ledger: Path, make: Any) -> None:
    make(ledger)
    with closing(sqlite3.connect(ledger)) as db:
        calls, events = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("call", "event"))
        states = dict(db.execute("SELECT state, count(*) FROM call GROUP BY state").fetchall())
    assert check(ledger) == Folded(calls, events, states, [])


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger for walks."""
    with Ledger(tmp_path_factory.mktemp("walks") / "ledger.db") as ledger:
        yield ledger


def plainly(events: Sequence[Event]) -> dict[str, Any]:
    """What the columns of a call mean, said without regard to speed."""
    said = {event.kind: json.loads(event.data) for event in events}
    first, begun = events[0], said[Kind.SUBMITTED]
    row: dict[str, Any] = {name: begun.get(name) for name in ("uid", "name", "image", "driver", "idempotency_key")}
    row["runner"] = said.get(Kind.ADOPTED, begun)["owner"]["runner"]
    row["spec"] = json.dumps(begun["spec"], separators=(",", ":"))
    row |= {name: said.get(Kind.PREPARED, {}).get(name) for name in ("container", "image_id", "image_digest")}
    ends = [event for event in events if event.kind in VERDICTS.values()]
    ended = said[ends[0].kind] if ends else {}
    names = ("reason", "message", "exit_code", "signal", "oom", "cpu_ns", "mem_peak_bytes")
    row |= {name: ended.get(name) for name in names}
    row["never_ran"] = int(ended.get("never_ran", False))
    row["evidence"] = json.dumps(ended["evidence"], separators=(",", ":")) if ends else None
    started = [event.at for event in events if event.kind is Kind.STARTED]
    row |= {"created_at": first.at, "started_at": started[0] if started else None}
    row |= {"ended_at": ends[0].at if ends else None, "gaps": sum(event.kind is Kind.GAP for event in events)}
    row |= {"cleaned": int(Kind.CLEANED in said), "recovered": int(Kind.ADOPTED in said)}
    row["pruned"] = "samples" if Kind.PRUNED in said else None
    row |= {"events": len(events), "samples": events[-1].samples, "chunks": events[-1].chunks}
    spent, entered = {f"{state.replace('-', '_')}_ns": 0 for state in State if not state.terminal}, first
    for event in events:
        if event.state is not entered.state:
            elapsed = event.elapsed_ns if event.elapsed_ns is not None else max(0, event.at - entered.at)
            spent[f"{entered.state.replace('-', '_')}_ns"] += elapsed
            entered = event
    return row | spent | {"state": str(events[-1].state), "entered_at": entered.at}


@given(walks())
def test_folding_in_bulk_one_by_one_and_plainly_is_the_same(walked: Ledger, steps: list[Step]) -> None:
    row, events = walk(walked, steps)
    one_by_one: dict[str, Any] = {}
    for event in events:
        one_by_one = fold(one_by_one, event)
    assert row == one_by_one == plainly(events)
    with Reader(walked.path) as reader:
        folded = check(walked.path, reader.resolve(row["uid"]))
    assert folded == Folded(1, len(events), {row["state"]: 1}, [])


@pytest.mark.parametrize("column", sorted(set(COLUMNS) - {"uid"}))
def test_a_row_that_does_not_follow_from_the_log_is_found(small: Path, column: str) -> None:
    value = "coalesce({0}, 0) + 1" if column.endswith(("_ns", "_at")) else "coalesce({0}, '') || 'x'"
    numbers = {
        "exit_code",
        "never_ran",
        "mem_peak_bytes",
        "events",
        "samples",
        "chunks",
        "gaps",
        "cleaned",
        "recovered",
    }
    value = "coalesce({0}, 0) + 1" if column in numbers else value
    tamper(small, f"UPDATE call SET {column} = {value.format(column)} WHERE id = 1")
    assert found(check(small)) == [(uid(1), None, column)]


def test_a_difference_says_what_is_stored_and_what_the_log_says(small: Path) -> None:
    tamper(small, "UPDATE call SET exit_code = 0 WHERE name = 'three'")
    assert check(small).differences == [(uid(2), None, "exit_code", 0, 3)]


def test_a_stored_state_that_the_table_does_not_lead_to_is_found(small: Path) -> None:
    tamper(small, f"UPDATE event SET state = {State.PAUSED.code} WHERE call_id = 1 AND seq = 3")
    assert check(small).differences == [(uid(1), 3, "state", "paused", "running")]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM event WHERE call_id = 1 AND seq = 3", (uid(1), 4, "seq", 4, 3)),
        ("DELETE FROM event WHERE call_id = 1 AND seq = 1", (uid(1), 2, "seq", 2, 1)),
        (
            f"UPDATE event SET kind = {Kind.PAUSED.code} WHERE call_id = 1 AND seq = 2",
            (uid(1), 2, "kind", "paused", "a call that is preparing cannot be paused"),
        ),
        (
            "UPDATE event SET kind = 99 WHERE call_id = 1 AND seq = 4",
            (uid(1), 4, "kind", 99, "there is no such kind of event"),
        ),
        (
            "UPDATE event SET kind = -1 WHERE call_id = 1 AND seq = 4",
            (uid(1), 4, "kind", -1, "there is no such kind of event"),
        ),
        ("DELETE FROM call WHERE id = 1", (uid(1), None, "row", None, "it has events and no row in call")),
        ("DELETE FROM event WHERE call_id = 1", (uid(1), None, "row", uid(1), "it has a row in call and no events")),
        ("DELETE FROM event WHERE call_id = 10", (uid(10), None, "row", uid(10), "it has a row in call and no events")),
        ("DELETE FROM call WHERE id = 10", (uid(10), None, "row", None, "it has events and no row in call")),
    ],
)
def test_the_first_event_that_cannot_be_folded_is_named(small: Path, statement: str, expected: Any) -> None:
    tamper(small, statement)
    folded = check(small)
    assert folded.differences == [expected]
    assert folded.calls == sum(folded.states.values()) == 10


@pytest.mark.parametrize("data", ["", "{", "[]", "null", "7"])
def test_data_that_cannot_be_read_is_a_difference(small: Path, data: str) -> None:
    tamper(small, f"UPDATE event SET data = '{data}' WHERE call_id = 1 AND seq = 4")
    folded = check(small)
    assert found(folded) == [(uid(1), 4, "data")]
    assert folded.states[None] == 1


def test_what_is_wrong_with_one_call_says_nothing_of_another(small: Path) -> None:
    tamper(small, "UPDATE call SET gaps = 5 WHERE id IN (2, 4)", "DELETE FROM event WHERE call_id = 3 AND seq = 2")
    assert {call for call, *_ in found(check(small))} == {uid(number) for number in rows_of(small, (2, 3, 4))}
    assert check(small, 1).differences == []
    assert len(check(small, 2).differences) == 1


def rows_of(path: Path, calls: Sequence[int]) -> list[int]:
    """Calls by their row -> by their number in the uid."""
    with closing(sqlite3.connect(path)) as db:
        uids = [db.execute("SELECT uid FROM call WHERE id = ?", (call,)).fetchone()[0] for call in calls]
    return [int(name[-12:], 16) for name in uids]


def test_the_big_ledger_of_the_benchmarks_is_in_order_and_always_the_same(tmp_path: Path) -> None:
    make = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "big_ledger.py"))["make"]
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    for path in paths:
        make(path, 6000)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    folded = check(paths[0])
    assert folded.events >= 6000
    assert folded.differences == []
    assert len(folded.states) == 6
    assert invariants(paths[0]) == folded.calls


# One call, at a moment.


class Past:
    """One call in a ledger of its own, written event by event, and looked back at."""

    def __init__(self, path: Path, **spec: Any) -> None:
        self.path = path
        self.ledger = Ledger(path)
        self.call = Call(self.ledger, 0, "it", **spec)

    def stood(self, seq: int | None = None, at: float | None = None) -> dict[str, Any]:
        """After an event, or so many seconds after the submission, or at the end. What is queued is written first."""
        self.ledger.close()
        with Log(self.path, self.call.id, now=lambda: START + 3600 * SECOND) as log:
            moment = log.end() if seq is None else log.after(seq)
            return log.stood(moment if at is None else log.at(START + round(at * SECOND)))


@pytest.fixture
def past(ledger: Path) -> Iterator[Past]:
    """A call to be looked back at."""
    past = Past(ledger)
    yield past
    past.ledger.close()


def pending(stood: dict[str, Any]) -> list[tuple[str, int]]:
    """What was pending, and since which event."""
    return [(one["what"], one["seq"]) for one in stood["pending"]]


@pytest.mark.parametrize("make", [ledgers.small, varied])
def test_at_the_end_of_the_log_a_call_is_as_show_has_it(ledger: Path, make: Any) -> None:
    make(ledger)
    with Reader(ledger) as reader:
        for call in [shown for shown in reader.calls() if shown["ended_at"]]:
            with Log(ledger, reader.resolve(call["id"])) as log:
                assert log.stood(log.end())["call"] == call


def test_a_live_call_is_as_show_would_have_had_it_then(small: Path) -> None:
    with Reader(small) as reader, Log(small, reader.resolve("live")) as log:
        moment = log.end()
        with Reader(small, now=lambda: moment.at) as then:
            assert log.stood(moment)["call"] == then.show("live")


@given(walks(), st.data())
def test_a_moment_knows_nothing_of_what_came_later(walked: Ledger, steps: list[Step], data: st.DataObject) -> None:
    row, _ = walk(walked, steps)
    cut = data.draw(st.integers(0, len(steps)))
    shorter, _ = walk(walked, steps[:cut])
    with Reader(walked.path) as reader:
        whole, part = reader.resolve(row["uid"]), reader.resolve(shorter["uid"])
    with Log(walked.path, whole) as log, Log(walked.path, part) as ended:
        then, end = log.stood(log.after(cut + 1)), ended.stood(ended.after(cut + 1))
    assert unnamed(then) == unnamed(end)


def unnamed(stood: dict[str, Any]) -> str:
    """Without the id, and what is said of the whole log whatever the moment."""
    return json.dumps(stood | {"events": None, "pruned": None}).replace(stood["id"], "")


def test_the_state_the_time_in_it_and_the_last_sample(past: Past) -> None:
    past.call.start().later(1).sample(0.5, MIB).later(1).sample(1.0, 2 * MIB).note(facts.Paused())
    stood = past.stood(at=1.75)
    assert (stood["state"], stood["state_seconds"], stood["seq"]) == ("running", 1.25, 3)
    assert (stood["sample"]["seq"], stood["sample"]["t_seconds"], stood["sample"]["mem_usage_bytes"]) == (1, 1.5, MIB)
    assert stood["call"]["cpu_seconds"] == 0.5
    assert stood["call"]["mem_peak_bytes"] == MIB
    assert past.stood(at=1.25)["sample"] is None
    assert past.stood(at=2.5)["state"] == "paused"


def test_a_call_of_which_only_the_submission_is_recorded(past: Past) -> None:
    stood = past.stood()
    assert (stood["seq"], stood["t_seconds"], stood["state"], pending(stood)) == (1, 0, "preparing", [("prepare", 1)])


def test_the_time_of_the_submission_and_a_time_before_it(past: Past) -> None:
    past.call.start()
    assert past.stood(at=0)["seq"] == 1
    with pytest.raises(UsageError, match=r"from 2025-10-09T08:53:20.000Z to 2025-10-09T09:53:20.000Z"):
        past.stood(at=-0.001)


def test_a_call_that_lives_is_known_up_to_now_and_one_that_ended_to_its_last_event(past: Past) -> None:
    past.call.start()
    assert past.stood(at=3600)["state_seconds"] == 3599.5
    with pytest.raises(UsageError):
        past.stood(at=3600.001)
    with Ledger(past.path) as ledger:
        past.call.ledger = ledger
        past.call.later(1).end(State.SUCCESS, Reason.EXIT, exit_code=0)
    assert past.stood(at=1.51)["pending"] == []
    with pytest.raises(UsageError, match=r"to 2025-10-09T08:53:21.510Z"):
        past.stood(at=1.52)


@pytest.mark.parametrize("seq", [-1, 0, 4])
def test_an_event_that_does_not_exist(past: Past, seq: int) -> None:
    past.call.start()
    with pytest.raises(UsageError, match=f"there is no event {seq}: the call has events 1 to 3"):
        past.stood(seq)


def test_a_clock_that_was_set_back_hides_no_event(past: Past) -> None:
    past.call.start()
    for kind, state, seconds in ((Kind.PAUSED, State.PAUSED, -5), (Kind.RESUMED, State.RUNNING, 5)):
        past.ledger.append(past.call.id, kind, state, START + seconds * SECOND, None, "{}")
    assert [past.stood(seq)["state"] for seq in (3, 4, 5)] == ["running", "paused", "running"]
    assert past.stood(at=1)["state"] == "paused"
    assert past.stood(4)["state_seconds"] == 0


def test_times_are_shown_to_the_millisecond_and_taken_so(past: Past) -> None:
    past.call.later(0.0004).note(facts.Pulled(image="i", seconds=0.1))
    past.ledger.close()
    with Log(past.path, past.call.id) as log:
        assert log.at(START).seq == 1
        assert log.at(START, slack=MS // 2 - 1).seq == 2


def test_health(past: Past) -> None:
    past.call.start().note(facts.HealthAwaited(limit=SECOND)).note(facts.HealthChanged(status="unhealthy"))
    past.call.note(facts.HealthChanged(status="starting")).note(facts.Healthy()).note(facts.OomSeen(source="event"))
    health = [past.stood(seq)["health"] for seq in range(1, 9)]
    assert health == [None, None, None, "starting", "unhealthy", "starting", "healthy", "healthy"]


def test_the_deadline_is_the_original_one(past: Past) -> None:
    past.call.note(facts.Prepared(container="c")).note(facts.Started(deadline=START + 10 * SECOND)).later(4)
    past.call.note(facts.Adopted(owner=OWNER.replace(runner="b"), previous="runner", why="gone")).later(8)
    past.call.note(facts.Signalled(signal="TERM", why="deadline")).end(State.TIMEOUT, Reason.DEADLINE)
    assert [past.stood(seq)["deadline_seconds"] for seq in (2, 3, 4, 5, 6)] == [None, 10, 6, -2, None]


def test_who_owned_it(past: Past) -> None:
    past.call.start().note(facts.Adopted(owner=OWNER.replace(runner="b", pid=7), previous="runner", why="gone"))
    before, after = past.stood(3)["owner"], past.stood(4)["owner"]
    assert (before["runner"], before["pid"], before["adopted"]) == ("runner", 1, False)
    assert (after["runner"], after["pid"], after["adopted"]) == ("b", 7, True)


def test_what_was_under_way_before_the_start_and_after_the_end(past: Past) -> None:
    past.call.note(facts.Pulled(image="i", seconds=1)).start().end(State.SUCCESS, Reason.EXIT, exit_code=0)
    under_way = [pending(past.stood(seq)) for seq in range(1, 7)]
    assert under_way == [[("prepare", 1)], [("create", 2)], [("start", 3)], [], [("clean", 5)], []]


def test_a_request_is_pending_until_a_signal_answers_it_and_a_stop_until_the_end(past: Past) -> None:
    past.call.start().note(facts.CancelRequested(by=BY, comment="why not"))
    past.call.note(facts.Signalled(signal="TERM", why="cancel", error="no such container"))
    past.call.note(facts.CancelRequested(by=BY)).note(facts.Signalled(signal="TERM", why="cancel"))
    past.call.note(facts.KillRequested(by=BY, signal="HUP")).note(facts.Signalled(signal="HUP", why="kill"))
    past.call.end(State.CANCELLED, Reason.USER)
    seen = [pending(past.stood(seq)) for seq in range(4, 11)]
    assert seen[:2] == [[("cancel", 4)], []]
    assert seen[2:] == [[("cancel", 6)], [("stop", 7)], [("kill", 8), ("stop", 7)], [("stop", 7)], [("clean", 10)]]
    assert past.stood(4)["pending"][0]["comment"] == "why not"
    assert past.stood(4)["pending"][0]["by"]["user"] == "user"


def test_output_so_far(past: Past) -> None:
    past.call.start().write(1, 0, b"one\ntwo\nthr").later(1).write(2, 0, b"bad \xff").write(1, 11, b"ee\n").later(1)
    past.call.note(facts.Paused())
    out, err = past.stood(at=1)["output"].values()
    assert out == {"bytes": 11, "kept_bytes": 11, "tail": ["two", "thr"]}
    assert err == {"bytes": 0, "kept_bytes": 0, "tail": []}
    out, err = past.stood()["output"].values()
    assert (out["bytes"], out["tail"]) == (14, ["two", "three"])
    assert err["tail"] == ["bad \ufffd"]


def test_output_that_was_cut_is_counted_and_not_joined(small: Path) -> None:
    with Reader(small) as reader, Log(small, reader.resolve("cut")) as log:
        out, err = log.stood(log.end())["output"].values()
    assert out == {"bytes": 1008, "kept_bytes": 18, "tail": ["st", "last"]}
    assert err == {"bytes": 9, "kept_bytes": 4, "tail": ["oops"]}


def test_a_long_line_is_shown_by_its_end(past: Past) -> None:
    past.call.start().write(1, 0, b"x" * 10_000 + b"end")
    out = past.stood()["output"]["stdout"]
    assert out["bytes"] == 10_003
    assert out["tail"][0].endswith("xend")
    assert len(out["tail"][0]) == 4096


def at_each(path: Path, number: int) -> list[dict[str, Any]]:
    """A call of `varied` after each of its events."""
    with Reader(path) as reader, Log(path, reader.resolve(uid(number))) as log:
        return [log.stood(log.after(seq + 1)) for seq in range(len(log.past))]


def test_of_a_call_that_was_emptied_states_and_times_are_left(ledger: Path) -> None:
    varied(ledger)
    emptied, plain = at_each(ledger, EMPTIED), at_each(ledger, PLAIN)
    kept = ("t_seconds", "seq", "state", "state_seconds", "gaps")
    for now, then in zip(emptied, plain, strict=False):
        assert {key: now[key] for key in kept} == {key: then[key] for key in kept}
        assert now["pruned"] == ["events", "output", "samples"]
        assert (now["owner"], now["sample"], now["deadline_seconds"]) == (None, None, None)
    assert plain[-1]["pruned"] == []
    assert emptied[-1]["output"]["stdout"] == {"bytes": None, "kept_bytes": None, "tail": []}
    assert plain[-1]["output"]["stdout"]["tail"][0] == "out"


def test_of_a_call_without_its_samples_the_rest_is_there(ledger: Path) -> None:
    varied(ledger)
    thinned, plain = at_each(ledger, THINNED), at_each(ledger, PLAIN)
    assert [one["sample"] for one in thinned] == [None] * len(thinned)
    assert [one["output"] for one in thinned[: len(plain)]] == [one["output"] for one in plain]
    assert {tuple(one["pruned"]) for one in thinned} == {("samples",)}
    assert thinned[0]["owner"]["runner"] == "runner"


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("DELETE FROM event WHERE call_id = 1", "event 1 (None): it is missing"),
        ("DELETE FROM event WHERE call_id = 1 AND seq = 2", "event 3 (3): 2"),
        ("UPDATE event SET kind = 4 WHERE call_id = 1 AND seq = 3", "a call that is prepared cannot be healthy"),
        ("UPDATE event SET data = '{' WHERE call_id = 1 AND seq = 5", "cannot be replayed"),
        ("UPDATE event SET data = '[]' WHERE call_id = 1 AND seq = 5", "event 5 says [], which is no object"),
        ('UPDATE event SET data = \'{"uid":"u"}\' WHERE call_id = 1 AND seq = 1', "cannot be replayed"),
    ],
)
def test_a_damaged_call_is_not_replayed(small: Path, statement: str, complaint: str) -> None:
    tamper(small, statement)
    with pytest.raises(LedgerError) as error, Log(small, 1) as log:
        log.stood(log.end())
    assert complaint in str(error.value)
