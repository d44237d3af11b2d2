"""What is asked of a call that runs, and ends nothing: pauses and messages. On a virtual clock, and in its log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conducting import Stage
from invariants import invariants
from ledgers import BY
from recovering import Succession

import calls
from calls.conduct import Asked, Conductor
from calls.watch import SETTLE
from driver.protocol import Froze, HealthCheck, HealthStatus
from driver.scripted import Schedule, Script, ScriptedDriver, Step, exits, happens
from ledger.ledger import Ledger
from ledger.read import Reader
from machine import facts
from machine.errors import DriverError, UnknownOutcomeError
from machine.history import History, Past
from machine.spec import Spec
from machine.states import REQUESTS, Kind, Reason, State
from machine.units import SECOND
from machine.verdict import Verdict

CHECK = HealthCheck(interval=SECOND, timeout=SECOND, retries=2, start_period=0)
REFUSED = DriverError(Reason.ENGINE_LOST, "cannot freeze")


def asks(why: Any, after: float, signal: str = "KILL") -> Step:
    """A step in which somebody asks for something."""

    def ask(container: Any) -> None:
        assert isinstance(container.watcher, Conductor)
        container.watcher.ask(Asked(why, signal))

    return Step(round(after * SECOND), ask)


def end(verdict: Verdict) -> tuple[State, Reason, int | None, str | None]:
    """State, reason, exit code and signal."""
    ended = verdict.ended
    return verdict.state, ended.reason, ended.exit_code, ended.signal


# Pauses.


def test_a_pause_and_its_end_are_recorded_and_measured(ledger: Path) -> None:
    with Stage(ledger, asks("pause", 1), asks("resume", 3), exits(0, after=5)) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT, 0, None)
        assert [(event["kind"], event["t"]) for event in stage.events(Kind.PAUSED, Kind.RESUMED)] == [
            (Kind.PAUSED, 1),
            (Kind.RESUMED, 3),
        ]
        assert stage.call()["seconds"]["paused"] == 2


def test_asked_for_twice_it_is_done_once(ledger: Path) -> None:
    steps = asks("resume", 0.5), asks("pause", 1), asks("pause", 2), asks("resume", 3), asks("resume", 3.5)
    with Stage(ledger, *steps, exits(0, after=5)) as stage:
        stage.conduct()
        assert stage.kinds() == [
            Kind.SUBMITTED, Kind.PREPARED, Kind.STARTED, Kind.PAUSED, Kind.RESUMED, Kind.SUCCEEDED, Kind.CLEANED
        ]  # fmt: skip


@pytest.mark.parametrize(("way", "signal"), [("pause", "STOP"), ("resume", "CONT")])
@pytest.mark.parametrize("refused", [REFUSED, UnknownOutcomeError(Reason.ENGINE_LOST, "cannot freeze")])
def test_what_the_engine_refuses_is_recorded_and_changes_nothing(
    ledger: Path, way: str, signal: str, refused: DriverError
) -> None:
    with Stage(ledger, asks(way, 1), exits(0, after=5), refuse_pause=refused) as stage:
        assert end(stage.conduct()) == (State.SUCCESS, Reason.EXIT, 0, None)
        (told,) = stage.events(Kind.SIGNALLED)
        assert (told["signal"], told["why"], told["error"]) == (signal, way, "cannot freeze")


def test_a_pause_that_nobody_reports_is_found_by_looking(ledger: Path) -> None:
    def freezes(container: Any) -> None:
        container.pause = lambda: container.happen(Froze, seen=False) or True

    with Stage(ledger, Step(0, freezes), asks("pause", 1), asks("cancel", 9)) as stage:
        stage.conduct()
        assert stage.events(Kind.PAUSED)[0]["t"] == 1 + SETTLE / SECOND


def test_the_deadline_goes_on_and_what_is_frozen_is_stopped(ledger: Path) -> None:
    with Stage(ledger, asks("pause", 1), exits(0, after=60), on_signal={"TERM": exits(143, after=0.5)}) as stage:
        assert end(stage.conduct(timeout=4))[:2] == (State.TIMEOUT, Reason.DEADLINE)
        assert stage.signals() == [("TERM", 4)]
        (resumed,) = stage.events(Kind.RESUMED)
        assert resumed["t"] == 4


@pytest.mark.parametrize(("why", "state"), [("cancel", State.CANCELLED), ("kill", State.KILLED)])
def test_a_signal_for_the_end_lets_what_is_frozen_go_on_to_take_it(ledger: Path, why: str, state: State) -> None:
    answers = {name: exits(1, after=0.5) for name in ("TERM", "KILL")}
    with Stage(ledger, asks("pause", 1), asks(why, 2), on_signal=answers) as stage:
        assert end(stage.conduct())[:2] == (state, Reason.USER)
        assert stage.events(Kind.RESUMED)[0]["t"] == 2
        assert stage.actions.index("resume") > stage.actions.index(f"signal {stage.signals()[0][0]}")


def test_a_message_leaves_it_frozen(ledger: Path) -> None:
    steps = asks("pause", 1), asks("signal", 2, "USR1"), asks("kill", 2.5, "HUP"), asks("resume", 4)
    with Stage(ledger, *steps, exits(0, after=5), on_signal={"USR1": None, "HUP": None}) as stage:
        assert end(stage.conduct())[0] is State.SUCCESS
        assert stage.events(Kind.RESUMED)[0]["t"] == 4


def test_that_it_cannot_be_let_go_keeps_nobody_from_killing_it(ledger: Path) -> None:
    with Stage(ledger, happens(Froze, after=1), exits(0, after=600), refuse_pause=REFUSED) as stage:
        assert end(stage.conduct(timeout=4))[:2] == (State.TIMEOUT, Reason.DEADLINE)


def test_what_is_about_to_end_is_not_frozen_any_more(ledger: Path) -> None:
    steps = asks("cancel", 1), asks("pause", 2), exits(0, after=60)
    with Stage(ledger, *steps, on_signal={"TERM": exits(0, after=3)}) as stage:
        assert end(stage.conduct())[0] is State.CANCELLED
        assert stage.events(Kind.PAUSED) == []
        assert stage.events(Kind.SIGNALLED)[-1]["error"] == "its end is under way"


def test_what_has_ended_is_not_frozen(ledger: Path) -> None:
    with Stage(ledger, exits(0, after=1), asks("pause", 1)) as stage:
        assert end(stage.conduct())[0] is State.SUCCESS
        assert [event.get("error") for event in stage.events(Kind.SIGNALLED)] == ["it was not running any more"]


def test_a_call_that_waits_for_its_health_may_be_paused(ledger: Path) -> None:
    steps = asks("pause", 1), asks("resume", 100), happens(HealthStatus, "healthy", after=101), exits(0, after=102)
    with Stage(ledger, *steps, health=CHECK) as stage:
        assert end(stage.conduct(health_timeout="200s"))[0] is State.SUCCESS
        assert [event["state"] for event in stage.events()][3:8] == [
            State.HEALTH_WAIT, State.PAUSED, State.RUNNING, State.HEALTH_WAIT, State.RUNNING
        ]  # fmt: skip


def test_what_is_asked_while_the_engine_is_awaited_is_done_when_it_runs(ledger: Path) -> None:
    class Absent:
        def __init__(self, prepare: Callable[..., Any]) -> None:
            self.prepare, self.refusals = prepare, 2

        def __call__(self, *arguments: Any) -> Any:
            self.refusals -= 1
            if self.refusals >= 0:
                raise DriverError(Reason.ENGINE_UNAVAILABLE, "nobody is there")
            return self.prepare(*arguments)

    with Stage(ledger, asks("resume", 2), exits(0, after=5)) as stage:
        stage.driver.prepare = Absent(stage.driver.prepare)  # type: ignore[method-assign]
        stage.ready(prepare_timeout=60)
        verdict = stage.play(lambda conductor: conductor.ask(Asked("pause")))
        assert (end(verdict)[0], [event["t"] for event in stage.events(Kind.PAUSED)]) == (State.SUCCESS, [0.2])


def test_what_is_asked_in_the_very_moment_of_the_start_is_done_after_it(ledger: Path) -> None:
    """Whoever reads in the ledger that it runs may be ahead of whoever wrote it."""
    schedule = Schedule()
    driver = ScriptedDriver(schedule, Script([exits(0, after=600)]))
    with calls.Runner(ledger, drivers=(driver,), clock=schedule, recover=False) as runner:

        def asks_at_once(uid: str, *arguments: Any) -> Any:
            container = ScriptedDriver.prepare(driver, uid, *arguments)
            start = container.start
            container.start = lambda: runner.pause(uid) or start()  # type: ignore[method-assign, func-returns-value]
            return container

        driver.prepare = asks_at_once  # type: ignore[method-assign]
        ended = runner.submit_spec(Spec.parse(driver="scripted", timeout=5)).result(60)
    assert ended.reason == "deadline"
    with Reader(ledger) as reader:
        kinds = [event["kind"] for event in reader.events(1)]
    assert kinds[1:5] == ["prepared", "pause-requested", "started", "paused"]


# Messages.


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "HUP"])
def test_a_message_that_the_program_takes_well_is_not_its_end(ledger: Path, name: str) -> None:
    with Stage(ledger, asks("signal", 1, name), exits(0, after=5), on_signal={name: None}) as stage:
        verdict = stage.conduct()
        assert end(verdict) == (State.SUCCESS, Reason.EXIT, 0, None)
        assert verdict.ended.evidence["messages"] == [name]
        (sent,) = stage.events(Kind.SIGNALLED)
        assert (sent["signal"], sent["why"], "error" in sent) == (name, "signal", False)


def test_a_program_that_ends_of_a_message_as_it_likes_has_ended_by_itself(ledger: Path) -> None:
    with Stage(ledger, asks("signal", 1, "TERM"), on_signal={"TERM": exits(3)}) as stage:
        assert end(stage.conduct()) == (State.ERROR, Reason.EXIT, 3, None)


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("USR1", 138), ("KILL", 137)])
def test_a_message_that_the_exit_code_names_was_the_end(ledger: Path, name: str, code: int) -> None:
    with Stage(ledger, asks("signal", 1, name)) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.USER, code, name)
        assert stage.events(Kind.KILLED)[0]["t"] == 1


def test_a_stop_goes_before_a_message(ledger: Path) -> None:
    steps = asks("signal", 1, "USR1"), exits(0, after=60)
    with Stage(ledger, *steps, on_signal={"USR1": None, "TERM": exits(138)}) as stage:
        assert end(stage.conduct(timeout=3))[:2] == (State.TIMEOUT, Reason.DEADLINE)


def test_a_message_for_what_has_ended_is_recorded_as_not_sent(ledger: Path) -> None:
    with Stage(ledger, exits(143, after=1), asks("signal", 1, "TERM")) as stage:
        verdict = stage.conduct()
        assert end(verdict) == (State.ERROR, Reason.EXIT, 143, None)
        assert "messages" not in verdict.ended.evidence
        assert stage.events(Kind.SIGNALLED)[0]["error"] == "it was not running any more"


def test_a_message_without_an_answer_may_have_been_sent(ledger: Path) -> None:
    lost = UnknownOutcomeError(Reason.ENGINE_LOST, "no answer")
    with Stage(ledger, asks("signal", 1, "TERM"), exits(143, after=2), refuse_signal=lost) as stage:
        assert end(stage.conduct()) == (State.KILLED, Reason.USER, 143, "TERM")


# The next runner.


def log(*said: facts.Fact) -> History:
    """The history of a call that runs, with these events after its start."""
    past, state = [], State.RUNNING
    for number, fact in enumerate(said, 4):
        state = {Kind.PAUSED: State.PAUSED, Kind.RESUMED: State.RUNNING}.get(fact.kind, state)
        past.append(Past(number, number, fact.kind, state, fact.record()))
    return History(past)


PAUSE, RESUME = facts.PauseRequested(by=BY), facts.ResumeRequested(by=BY)
SIGNAL = facts.SignalRequested(by=BY, signal="USR1")
SENT = facts.Signalled(signal="USR1", why="signal")


@pytest.mark.parametrize(
    ("said", "pending"),
    [
        ((PAUSE,), {4: Kind.PAUSE_REQUESTED}),
        ((PAUSE, facts.Paused()), {}),
        ((PAUSE, RESUME, facts.Paused()), {5: Kind.RESUME_REQUESTED}),
        ((PAUSE, RESUME, facts.Paused(), facts.Resumed()), {}),
        ((RESUME,), {}),
        ((facts.Paused(), PAUSE), {}),
        ((facts.Paused(), RESUME), {5: Kind.RESUME_REQUESTED}),
        ((PAUSE, facts.Signalled(signal="STOP", why="pause", error="no")), {}),
        ((SIGNAL,), {4: Kind.SIGNAL_REQUESTED}),
        ((SIGNAL, SENT), {}),
        ((SIGNAL, SIGNAL, SENT), {5: Kind.SIGNAL_REQUESTED}),
        ((SIGNAL, PAUSE, SENT), {5: Kind.PAUSE_REQUESTED}),
        ((SIGNAL, facts.Signalled(signal="TERM", why="deadline")), {4: Kind.SIGNAL_REQUESTED}),
    ],
)
def test_what_was_asked_and_not_done_is_left_to_the_next_runner(said: Any, pending: dict[int, Kind]) -> None:
    assert log(*said).pending == pending


def test_a_message_that_was_sent_is_evidence_for_the_next_runner_and_no_stop() -> None:
    past = log(SIGNAL, SENT, SIGNAL, facts.Signalled(signal="TERM", why="signal", error="no answer"))
    assert (past.evidence.messages, past.evidence.stop, past.last_signal) == ({"USR1"}, None, None)


def test_every_request_has_its_kind() -> None:
    assert {kind for kind in Kind if kind.endswith("-requested")} == set(REQUESTS.values())


@pytest.mark.parametrize("fact", [PAUSE, SIGNAL])
def test_the_next_runner_does_what_was_asked_of_the_last_one(ledger: Path, fact: facts.Fact) -> None:
    with Succession(ledger, exits(0, after=600), on_signal={"USR1": exits(0, after=1)}) as stage:
        stage.die(3, written=True, timeout=100)
        with Ledger(ledger) as somebody:
            somebody.append(1, fact.kind, None, stage.clock.wall(), None, fact.dump())
        stage.recover(1)
        kinds = stage.kinds()
        assert kinds.index(fact.kind) < kinds.index(Kind.ADOPTED)
        if fact is PAUSE:
            assert kinds.index(Kind.PAUSED) > kinds.index(Kind.ADOPTED)
            assert stage.call()["reason"] == "deadline"
        else:
            assert stage.signals() == [("USR1", 1)]
            assert (stage.call()["state"], stage.call()["reason"]) == ("success", "exit")
        invariants(ledger)
