"""The life of one call, on a virtual clock: ends of every kind, at exact times, recorded before acted upon."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conducting import Stage

from calls import Runner
from calls.conduct import Asked, Conductor
from calls.stopping import CONFIRM, KILLS
from driver.protocol import (
    HealthCheck,
)
from driver.scripted import Step, exits
from machine.errors import DriverError, UsageError
from machine.spec import Spec
from machine.states import Kind, Reason, State
from machine.units import SECOND
from machine.verdict import Verdict

IGNORES_TERM = {"TERM": None}
IMMORTAL = {"TERM": None, "KILL": None}
CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)


def end(verdict: Verdict) -> tuple[State, Reason, int | None, str | None]:
    """State, reason, exit code and signal."""
    ended = verdict.ended
    return verdict.state, ended.reason, ended.exit_code, ended.signal


def asks(why: Any, after: float, signal: str = "KILL") -> Step:
    """A step in which somebody wants the end."""

    def ask(container: Any) -> None:
        assert isinstance(container.watcher, Conductor)
        container.watcher.ask(Asked(why, signal))

    return Step(round(after * SECOND), ask)


# By itself.


def test_a_call_that_exits_0_is_a_success(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT, 0, None)
        assert stage.call()["seconds"] == {
            "preparing": 0, "prepared": 0, "running": 3, "health-wait": 0, "paused": 0, "total": 3
        }  # fmt: skip


def test_everything_is_recorded_before_it_is_acted_upon(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=3)) as stage:
        stage.conduct()
        assert stage.actions == [
            "recorded submitted",
            "prepare",
            "recorded prepared",
            "start",
            "recorded started",
            "recorded succeeded",
            "remove",
            "recorded cleaned",
        ]


@pytest.mark.parametrize("code", [1, 126, 137, 255])
def test_a_call_that_exits_otherwise_is_an_error_with_its_code(ledger: Path, code: int) -> None:
    with Stage(ledger, exits(code, after=1)) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.EXIT, code, None)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"refuse_prepare": DriverError(Reason.PULL_DENIED, "no")}, Reason.PULL_DENIED),
        ({"refuse_prepare": DriverError(Reason.CREATE_REFUSED, "no")}, Reason.CREATE_REFUSED),
        ({"refuse_start": DriverError(Reason.START_NOT_FOUND, "no")}, Reason.START_NOT_FOUND),
    ],
)
def test_what_is_refused_never_ran(ledger: Path, script: dict[str, Any], reason: Reason) -> None:
    with Stage(ledger, **script) as stage:
        state, ended = stage.conduct()
        assert (state, ended.reason, ended.never_ran, ended.message) == (State.ERROR, reason, True, "no")


def test_a_start_without_an_answer_is_never_a_success_and_leaves_nothing_running(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=60), start_unanswered=True) as stage:
        assert end(stage.conduct())[:2] == (State.ERROR, Reason.LOST)
        assert stage.container.inspect().status == "gone"


# The deadline.


def test_at_the_deadline_it_is_asked_and_after_the_grace_it_is_killed(ledger: Path) -> None:
    with Stage(ledger, on_signal=IGNORES_TERM) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=2)) == (State.TIMEOUT, Reason.DEADLINE, 137, None)
        assert stage.signals() == [("TERM", 5), ("KILL", 7)]
        assert stage.call()["seconds"]["running"] == 7


def test_what_obeys_in_its_grace_is_not_killed(ledger: Path) -> None:
    with Stage(ledger, on_signal={"TERM": exits(0, after=1.5)}) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=2)) == (State.TIMEOUT, Reason.DEADLINE, 0, None)
        assert stage.signals() == [("TERM", 5)]
        assert stage.events(Kind.TIMED_OUT)[0]["t"] == 6.5


def test_without_a_grace_it_is_killed_at_once(ledger: Path) -> None:
    with Stage(ledger) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=0))[:2] == (State.TIMEOUT, Reason.DEADLINE)
        assert stage.signals() == [("KILL", 5)]


def test_the_stop_signal_that_was_asked_for_goes_before_the_images(ledger: Path) -> None:
    with Stage(ledger, stop_signal="QUIT") as stage:
        stage.conduct(timeout=5, stop_signal="INT")
        assert stage.signals() == [("INT", 5)]


def test_what_ends_at_the_very_instant_of_its_deadline_was_not_stopped(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=5)) as stage:
        assert end(stage.conduct(timeout=5)) == (State.SUCCESS, Reason.EXIT, 0, None)
        assert stage.signals() == []


def test_the_deadline_is_on_record_from_the_start(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=1)) as stage:
        stage.conduct(timeout=5)
        assert stage.events(Kind.STARTED)[0]["deadline"] == stage.begun + 5 * SECOND


def test_what_cannot_be_killed_is_tried_five_times_and_then_given_up_unconfirmed(ledger: Path) -> None:
    with Stage(ledger, on_signal=IMMORTAL) as stage:
        state, ended = stage.conduct(timeout=5, stop_timeout=2)
        kills = [("KILL", 7 + number * CONFIRM / SECOND) for number in range(KILLS)]
        assert stage.signals() == [("TERM", 5), *kills]
        assert (state, ended.reason, ended.exit_code) == (State.TIMEOUT, Reason.DEADLINE, None)
        assert ended.evidence["unconfirmed"] is True


def test_an_engine_that_cannot_deliver_a_signal_is_asked_until_it_is_hopeless(ledger: Path) -> None:
    with Stage(ledger, refuse_signal=DriverError(Reason.ENGINE_LOST, "engine down")) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=2))[:2] == (State.TIMEOUT, Reason.DEADLINE)
        assert {event["error"] for event in stage.events(Kind.SIGNALLED)} == {"engine down"}


# Cancel and kill.


def test_a_cancelled_call_is_asked_and_then_killed(ledger: Path) -> None:
    with Stage(ledger, asks("cancel", after=1), on_signal=IGNORES_TERM) as stage:
        assert end(stage.conduct(stop_timeout=2)) == (State.CANCELLED, Reason.USER, 137, None)
        assert stage.signals() == [("TERM", 1), ("KILL", 3)]


def test_a_killed_call_names_the_signal(ledger: Path) -> None:
    with Stage(ledger, asks("kill", after=1)) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.USER, 137, "KILL")


def test_a_kill_in_the_grace_of_a_cancel_ends_the_grace(ledger: Path) -> None:
    with Stage(ledger, asks("cancel", after=1), asks("kill", after=2), on_signal=IGNORES_TERM) as stage:
        assert end(stage.conduct(stop_timeout=60)) == (State.KILLED, Reason.USER, 137, "KILL")
        assert stage.signals() == [("TERM", 1), ("KILL", 2)]


def test_a_deadline_in_the_grace_of_a_cancel_changes_nothing(ledger: Path) -> None:
    with Stage(ledger, asks("cancel", after=4), on_signal=IGNORES_TERM) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=3)) == (State.CANCELLED, Reason.USER, 137, None)
        assert stage.signals() == [("TERM", 4), ("KILL", 7)]


def test_cancelling_twice_is_cancelling_once(ledger: Path) -> None:
    with Stage(ledger, asks("cancel", after=1), asks("cancel", after=2), on_signal=IGNORES_TERM) as stage:
        stage.conduct(stop_timeout=3)
        assert stage.signals() == [("TERM", 1), ("KILL", 4)]


def test_a_message_to_a_call_is_not_its_end(ledger: Path) -> None:
    with Stage(ledger, asks("kill", 1, "USR1"), exits(0, after=3), on_signal={"USR1": None}) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT, 0, None)
        assert stage.signals() == [("USR1", 1)]


def test_a_message_in_the_grace_of_a_deadline_leaves_the_verdict_to_the_deadline(ledger: Path) -> None:
    obeys = {"USR1": None, "TERM": exits(143, after=5)}
    with Stage(ledger, asks("kill", 6, "USR1"), on_signal=obeys) as stage:
        assert end(stage.conduct(timeout=5, stop_timeout=9))[:2] == (State.TIMEOUT, Reason.DEADLINE)


def test_being_asked_to_kill_many_times_does_not_make_it_hopeless_sooner(ledger: Path) -> None:
    impatient = [asks("kill", after=1) for _ in range(KILLS + 2)]
    with Stage(ledger, *impatient, on_signal={"KILL": exits(137, after=1)}) as stage:
        state, ended = stage.conduct()
        assert (state, ended.exit_code, "unconfirmed" in ended.evidence) == (State.KILLED, 137, False)


def test_a_cancel_after_the_end_changes_nothing_and_signals_nobody(ledger: Path) -> None:
    with Stage(ledger, exits(3, after=1), asks("cancel", after=1)) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.EXIT, 3, None)


# Before the start.


def cancelled_at(stage: Stage, seconds: float, asked: Asked) -> Verdict:
    """Conduct a call that is asked to end so soon after its submission."""
    return stage.play(lambda conductor: stage.clock.at(round(seconds * SECOND), lambda: conductor.ask(asked)))


@pytest.mark.parametrize(("why", "state"), [("cancel", State.CANCELLED), ("kill", State.KILLED)])
def test_what_is_to_end_while_its_image_is_pulled_is_never_started(ledger: Path, why: Any, state: State) -> None:
    with Stage(ledger, exits(0), pulls=60) as stage:
        stage.ready()
        verdict = cancelled_at(stage, 2.5, Asked(why))
        assert (verdict.state, verdict.ended.reason, verdict.ended.never_ran) == (state, Reason.USER, True)
        assert ("start" in stage.actions, stage.events()[-1]["t"]) == (False, 3)


def test_what_is_to_end_when_it_is_prepared_is_never_started_but_removed(ledger: Path) -> None:
    with Stage(ledger, exits(0)) as stage:
        stage.ready()
        verdict = stage.play(lambda conductor: conductor.ask(Asked("cancel")))
        assert (verdict.state, verdict.ended.never_ran) == (State.CANCELLED, True)
        assert [action for action in stage.actions if " " not in action] == ["prepare", "remove"]


def test_what_is_not_prepared_in_time_is_a_timeout(ledger: Path) -> None:
    with Stage(ledger, exits(0), pulls=60) as stage:
        state, ended = stage.conduct(prepare_timeout=4)
        assert (state, ended.reason, ended.never_ran) == (State.TIMEOUT, Reason.PREPARE, True)
        assert stage.events(Kind.TIMED_OUT)[0]["t"] == 4


def test_the_time_to_prepare_does_not_count_against_the_deadline(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=4), pulls=60) as stage:
        assert end(stage.conduct(timeout=5))[0] is State.SUCCESS
        assert stage.events(Kind.PULLED)[0]["seconds"] == 60


# Through the runner.


@pytest.mark.parametrize("signal", ["TERM", "SIGTERM", "15", "term"])
def test_a_signal_is_the_same_by_each_of_its_names(runner: Runner, signal: str) -> None:
    runs = threading.Event()
    spec = Spec.parse(driver="local", command=["sh", "-c", "trap 'exit 0' TERM; echo ready; sleep 600 & wait"])
    future = runner.submit_spec(spec, lambda _stream, _data: runs.set())
    assert runs.wait(60)
    runner.kill(future.id, signal)
    ended = future.result(30)
    assert (ended.state, ended.reason, ended.signal) == ("killed", "user", "TERM")


def test_what_is_no_signal_is_refused_before_anything_is_recorded(runner: Runner) -> None:
    with pytest.raises(UsageError, match="'FOO' is not a signal"):
        runner.kill("any call", "FOO")
