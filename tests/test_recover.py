"""Whoever dies in the middle of a call, the record ends true: the dying is done before and after every event."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conducting import UID
from invariants import invariants
from ledgers import BY, OWNER, Call, uid
from recovering import Succession

import calls
from calls.recover import Recovery
from driver.protocol import STDERR, STDOUT, ForeignSignal, Froze, HealthCheck, HealthStatus, OomKilled
from driver.scripted import Script, ScriptedDriver, Step, exits, happens, writes
from ledger.ledger import Ledger
from ledger.sqlite import connect_writer
from machine import facts
from machine.errors import TakenOverError
from machine.secrets import MARK
from machine.states import TERMINAL, Kind, State
from machine.units import SECOND

CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)
Case = tuple[tuple[Step, ...], dict[str, Any], dict[str, Any], tuple[str, str]]

CASES: dict[str, Case] = {
    "success": ((writes(b"out"), writes(b"err", STDERR), exits(0, after=5)), {}, {}, ("success", "exit")),
    "failure": ((exits(3, after=5),), {}, {}, ("error", "exit")),
    "timeout": ((exits(0, after=60),), {}, {"timeout": 4}, ("timeout", "deadline")),
    "stubborn": ((exits(0, after=600),), {"on_signal": {"TERM": None}}, {"timeout": 4}, ("timeout", "deadline")),
    "oom": ((happens(OomKilled, after=4), exits(137, after=5)), {}, {"memory": 2**24}, ("killed", "oom")),
    "healthy": (
        (happens(HealthStatus, "healthy", after=3), exits(0, after=9)),
        {"health": CHECK},
        {},
        ("success", "exit"),
    ),
    "unhealthy": ((happens(HealthStatus, "unhealthy", after=3),), {"health": CHECK}, {}, ("error", "unhealthy")),
}
MOMENTS = [(number, written) for number in range(1, 9) for written in (False, True)]
LATER = [0, 4.5, 100]
"""How long the call is without a runner: the container still runs, has just ended, has long ended."""


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize(("at", "written"), MOMENTS)
@pytest.mark.parametrize("case", CASES)
def test_the_record_ends_true(ledger: Path, case: str, at: int, later: float, *, written: bool) -> None:
    steps, script, options, clean = CASES[case]
    with Succession(ledger, *steps, **script) as stage:
        died = stage.die(at, written=written, **options)
        recovered = stage.recover(later)
        invariants(ledger)
        assert stage.starts() <= 1
        assert stage.left() == []
        if at == 1 and not written:
            assert (recovered, stage.rows("SELECT * FROM event")) == ([], [])
            return
        kinds, call = stage.kinds(), stage.call()
        assert State(call["state"]) in TERMINAL
        assert kinds[-1] is Kind.CLEANED
        if died and (not written or kinds[-2:] != [Kind.CLEANED]) and recovered:
            assert (Kind.ADOPTED in kinds, recovered[0].id) == (True, UID)
        if not stage.starts():
            assert (call["state"], call["reason"]) in {("error", "lost"), ("cancelled", "runner-lost")}
            assert call["never_ran"]
        elif case in {"success", "failure", "oom", "healthy"}:
            assert (call["state"], call["reason"]) == clean


STARTED = 3
"""The number of the event `started`, where there is no pull."""


def test_the_deadline_is_the_original_one(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True, timeout=4)
        stage.recover(3)
        assert stage.signals() == [("TERM", 4.0)]
        assert (stage.call()["state"], stage.call()["reason"]) == ("timeout", "deadline")


def test_a_deadline_that_has_passed_meanwhile_is_kept_at_once(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True, timeout=4)
        stage.recover(30)
        assert stage.signals() == [("TERM", 30.0)]
        assert stage.call()["reason"] == "deadline"


def test_a_start_that_was_not_recorded_counts_from_when_the_engine_says(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=False, timeout=4)
        stage.recover(1)
        (started,) = stage.events(Kind.STARTED)
        assert (started["engine_at"], started["deadline"]) == (stage.begun, stage.begun + 4 * SECOND)
        assert stage.signals() == [("TERM", 4.0)]


def test_the_grace_of_a_stop_goes_on_from_its_signal(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=600), on_signal={"TERM": None}) as stage:
        stage.die(STARTED + 1, written=True, timeout=4, stop_timeout=10)
        stage.recover(3)
        assert stage.signals() == [("TERM", 4.0), ("KILL", 14.0)]
        assert (stage.call()["state"], stage.call()["reason"]) == ("timeout", "deadline")


def test_what_was_not_observed_is_a_gap(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True)
        stage.recover(20)
        gaps = [(gap["of"], (gap["until"] - gap["since"]) / SECOND, gap["why"]) for gap in stage.events(Kind.GAP)]
        assert gaps == [("events", 20.0, "its runner is gone"), ("samples", 20.0, "its runner is gone")]


def test_the_end_that_nobody_saw_is_marked_as_found_by_inspect(ledger: Path) -> None:
    with Succession(ledger, exits(3, after=5, seen=False)) as stage:
        stage.die(STARTED, written=True)
        stage.recover(20)
        call = stage.call()
        assert (call["exit_code"], call["evidence"]["exits"], call["evidence"]["recovered"]) == (
            3,
            {"inspect": 3},
            True,
        )
        assert call["evidence"]["finished_at"] == stage.begun + 5 * SECOND


def test_a_container_that_is_gone_is_lost_and_never_a_success(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=5)) as stage:
        stage.die(STARTED, written=True)
        stage.clock.advance(6 * SECOND)
        stage.container.process.vanish()
        (recovered,) = stage.recover()
        assert (recovered.state, recovered.reason, stage.call()["never_ran"]) == ("error", "lost", False)


def output(stage: Succession) -> dict[int, bytes]:
    """What is kept, by stream; without holes."""
    kept = {STDOUT: b"", STDERR: b""}
    for stream, offset, data in stage.rows("SELECT stream, offset_bytes, data FROM log ORDER BY seq"):
        assert offset == len(kept[stream])
        kept[stream] += data
    return kept


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize(("at", "written"), MOMENTS)
def test_the_output_is_whole_and_nothing_of_it_twice(ledger: Path, at: int, later: float, *, written: bool) -> None:
    steps = [writes(f"line {number}\n".encode(), 1 + number % 2, after=number) for number in range(8)]
    with Succession(ledger, *steps, exits(0, after=9)) as stage:
        if stage.die(at, written=written) and not stage.starts():
            return
        stage.recover(later)
        assert output(stage) == {
            STDOUT: b"line 0\nline 2\nline 4\nline 6\n",
            STDERR: b"line 1\nline 3\nline 5\nline 7\n",
        }


def test_a_secret_in_output_that_is_read_again_is_replaced(ledger: Path) -> None:
    secret = "hunter2hunter2"
    steps = writes(b"it is hunter2hun"), writes(b"ter2\n", after=2), exits(0, after=5)
    with Succession(ledger, *steps) as stage:
        stage.die(STARTED, written=True, env={"TOKEN": secret}, secret=["TOKEN"])
        stage.recover(1)
        assert output(stage)[STDOUT] == b"it is " + MARK.encode() + b"\n"


def test_output_that_cannot_be_read_again_is_a_gap(ledger: Path) -> None:
    with Succession(
        ledger, writes(b"lost", after=1), writes(b"heard", after=5), exits(0, after=9), remembers=False
    ) as stage:
        stage.die(STARTED, written=True)
        stage.recover(3)
        assert output(stage)[STDOUT] == b"heard"
        assert [gap["of"] for gap in stage.events(Kind.GAP)] == ["events", "samples", "output"]


def test_a_cancel_that_nobody_answered_is_answered(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True)
        with Ledger(ledger) as other:
            other.append(1, Kind.CANCEL_REQUESTED, None, stage.clock.wall(), None, facts.CancelRequested(by=BY).dump())
        stage.recover(2)
        assert stage.signals() == [("TERM", 2.0)]
        assert (stage.call()["state"], stage.call()["reason"]) == ("cancelled", "user")


KILLED = (happens(ForeignSignal, "KILL", True, after=4), exits(137, after=5))


def test_what_is_asked_while_nobody_looks_does_not_hide_how_the_call_ended(ledger: Path) -> None:
    with Succession(ledger, *KILLED) as stage:
        stage.die(STARTED, written=True)
        stage.clock.advance(10 * SECOND)
        with Ledger(ledger) as other:
            other.append(1, Kind.CANCEL_REQUESTED, None, stage.clock.wall(), None, facts.CancelRequested(by=BY).dump())
        stage.recover(10)
        assert (stage.call()["state"], stage.call()["reason"]) == ("killed", "external")
        assert {gap["until"] - gap["since"] for gap in stage.events(Kind.GAP)} == {20 * SECOND}


def test_an_heir_that_dies_before_it_has_looked_does_not_hide_it_either(ledger: Path) -> None:
    with Succession(ledger, *KILLED) as stage:
        stage.die(STARTED, written=True)
        stage.clock.advance(10 * SECOND)
        adopted = facts.Adopted(owner=OWNER.replace(runner="heir"), previous="runner", why="its runner is gone")
        with Ledger(ledger, owner=OWNER.replace(runner="heir")) as heir:
            heir.adopt(1, "runner", stage.clock.wall(), adopted.dump())
        stage.recover(10)
        assert (stage.call()["state"], stage.call()["reason"]) == ("killed", "external")


def test_a_cancel_before_it_was_started_leaves_it_cancelled_by_its_user(ledger: Path) -> None:
    with Succession(ledger, exits(0)) as stage:
        stage.die(2, written=True)
        with Ledger(ledger) as other:
            other.append(1, Kind.CANCEL_REQUESTED, None, stage.clock.wall(), None, facts.CancelRequested(by=BY).dump())
        (recovered,) = stage.recover()
        assert (recovered.state, recovered.reason, stage.starts()) == ("cancelled", "user", 0)


@pytest.mark.parametrize(
    "harm", ["data = 'xx'", "data = '[1]'", "data = '{}'", "kind = 99", "state = 77", "data = CAST(x'ff' AS TEXT)"]
)
def test_a_call_whose_log_cannot_be_read_is_left_and_hinders_no_other(ledger: Path, harm: str) -> None:
    with Ledger(ledger, owner=OWNER) as before:
        Call(before, 2).start()
    with closing(connect_writer(ledger)) as db:
        db.execute("DROP TRIGGER event_no_update")
        db.execute(f"UPDATE event SET {harm} WHERE seq = 1")
    with Succession(ledger, exits(3, after=5)) as stage:
        stage.die(STARTED, written=True)
        damaged, whole = stage.recover(20)
        assert (damaged.id, damaged.action, "calls verify" in str(damaged.detail)) == (uid(2), "left", True)
        assert (whole.id, whole.action, whole.reason, stage.left()) == (UID, "settled", "exit", [])


def test_a_dry_run_does_nothing(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True)
        before = stage.rows("SELECT * FROM event")
        (found,) = stage.recover(dry_run=True)
        assert (found.action, found.state) == ("re-attached", "running")
        assert (stage.rows("SELECT * FROM event"), len(stage.left())) == (before, 1)


def test_a_call_has_one_owner_when_two_recover_it(ledger: Path) -> None:
    """The second finds that the first was there, and touches nothing."""
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True)
        stage.ledger.close()
        heir = ScriptedDriver(stage.clock, Script(), containers=stage.driver.containers)
        with calls.Runner(ledger, drivers=(heir,), clock=stage.clock, recover=False) as runner:
            seen = runner.ledger.unsettled()
            runner.ledger.unsettled = lambda: seen  # type: ignore[method-assign] # what it saw a moment before
            with Ledger(ledger, owner=OWNER.replace(runner="quicker")) as other:
                adopted = facts.Adopted(owner=OWNER.replace(runner="quicker"), previous="runner", why="it was quicker")
                other.adopt(1, "runner", stage.clock.wall(), adopted.dump())
            assert list(Recovery(runner).settle()) == []
        assert (heir.actions, len(stage.left()), stage.kinds().count(Kind.ADOPTED)) == ([], 1, 1)


def test_the_ledger_takes_one_adoption_only(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=60)) as stage:
        stage.die(STARTED, written=True)
        adopted = facts.Adopted(owner=OWNER.replace(runner="heir"), previous="runner", why="its runner is gone")
        with Ledger(ledger, owner=OWNER.replace(runner="heir")) as heir:
            heir.adopt(1, "runner", stage.clock.wall(), adopted.dump())
            with pytest.raises(TakenOverError):
                heir.adopt(1, "runner", stage.clock.wall(), adopted.dump())


def test_a_runner_that_was_taken_for_dead_cannot_write_any_more_and_lets_the_process_live(ledger: Path) -> None:
    with Succession(ledger, happens(Froze, after=6), exits(0, after=60)) as stage:
        stage.ledger.close()
        stage.ledger = Ledger(ledger, owner=OWNER)  # type: ignore[assignment]
        adopted = facts.Adopted(owner=OWNER.replace(runner="heir"), previous="runner", why="it slept too long")
        with Ledger(ledger, owner=OWNER.replace(runner="heir")) as heir:
            stage.clock.at(5 * SECOND, lambda: heir.adopt(1, "runner", stage.clock.wall(), adopted.dump()))
            with pytest.raises(TakenOverError):
                stage.conduct()
        assert stage.kinds()[-1] is Kind.ADOPTED
        assert "signal KILL" not in stage.actions
        assert len(stage.left()) == 1


def test_what_was_settled_is_not_reaped_once_more(ledger: Path) -> None:
    with Succession(ledger, exits(0, after=5)) as stage:
        stage.die(STARTED, written=True)
        stage.clock.advance(600 * SECOND)
        stage.ledger.close()
        heir = ScriptedDriver(stage.clock, Script(), containers=stage.driver.containers)
        with calls.Runner(ledger, drivers=(heir,), clock=stage.clock, recover=False) as runner:
            recovery = Recovery(runner)
            assert [told.action for told in recovery.settle()] == ["settled"]
            assert list(recovery.reap(0)) == []
        assert stage.kinds().count(Kind.CLEANED) == 1
