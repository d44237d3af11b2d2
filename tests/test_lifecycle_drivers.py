"""Pauses, looks inside, and the whole of a driver used by hand: what each driver promises."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Iterator

import pytest
from contract import DRIVERS, FAILS, MISSING, NEEDS_ENGINE, STAYS, SUCCEEDS, TALKS, Stage
from running import let_pause_settle, until

from calls import direct
from calls.direct import Session
from driver.local import family
from driver.protocol import STDERR, STDOUT, Container, Died, Execution, Froze, Thawed
from machine.errors import CallEndedError, DriverError, NotRunningError, SpecError
from machine.spec import Spec
from machine.states import Kind, State

_PARAMETERS = [pytest.param(name, marks=pytest.mark.engine if name in NEEDS_ENGINE else ()) for name in DRIVERS]


@pytest.fixture(params=_PARAMETERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One driver after the other."""
    with DRIVERS[request.param]() as stage:
        yield stage


# Containers.


def test_a_pause_and_its_end_are_reported_in_turn_however_often_they_are_asked_for(stage: Stage) -> None:
    ear = stage.ear()
    container = stage.prepare(STAYS, ear)
    container.start()
    assert (container.pause(), ear.until(Froze).at > 0, container.inspect().status) == (True, True, "paused")
    assert container.pause() is True
    let_pause_settle()
    assert (container.resume(), ear.until(Thawed).at > 0, container.inspect().status) == (True, True, "running")
    assert container.resume() is True
    container.signal("KILL")
    ear.until(Died)
    told = [type(fact) for fact in ear.facts if isinstance(fact, Froze | Thawed)]
    assert told == [Froze, Thawed]
    container.remove()


def test_the_size_of_a_terminal_that_is_not_there_is_nothing(stage: Stage) -> None:
    container = stage.prepare(STAYS, ear := stage.ear())
    container.resize(20, 50)
    container.start()
    container.resize(20, 50)
    assert container.inspect().status == "running"
    container.signal("KILL")
    ear.until(Died)
    container.resize(20, 50)
    container.remove()
    container.resize(20, 50)


def test_what_does_not_run_is_not_paused_and_has_no_processes(stage: Stage) -> None:
    def look(container: Container) -> tuple[object, ...]:
        return container.pause(), container.resume(), container.processes()

    ear = stage.ear()
    container = stage.prepare(SUCCEEDS, ear)
    assert look(container) == (False, False, [])
    container.start()
    ear.until(Died)
    assert look(container) == (False, False, [])
    container.remove()
    assert look(container) == (False, False, [])


def test_what_is_paused_can_be_killed_and_removed(stage: Stage) -> None:
    ear = stage.ear()
    container, other = stage.prepare(STAYS, ear, "one"), stage.prepare(STAYS, uid="two")
    for each in (container, other):
        each.start()
        assert each.pause() is True
    container.signal("KILL")
    assert ear.until(Died).exit_code == 137
    container.remove()
    other.remove()
    assert other.inspect().status == "gone"


def test_processes_are_named_and_numbered(stage: Stage) -> None:
    container = stage.prepare(STAYS)
    container.start()
    commands = {"sleep 600", "scripted"}
    until(lambda: {each.command for each in container.processes()} <= commands, "the command, which execve sets late")
    (process,) = container.processes()
    assert process.pid > 0
    assert process.user
    assert process.cpu_seconds is None or process.cpu_seconds >= 0
    container.pause()
    assert len(container.processes()) == 1
    container.remove()


def test_what_was_taken_over_can_be_paused_too(stage: Stage) -> None:
    first = stage.prepare(STAYS)
    first.start()
    ear = stage.ear()
    heir = stage.successor().found(STAYS, ear)
    heir.rejoin()
    assert (heir.pause(), ear.until(Froze).at > 0, heir.inspect().status) == (True, True, "paused")
    assert len(heir.processes()) == 1
    let_pause_settle()
    assert (heir.resume(), ear.until(Thawed).at > 0, heir.inspect().status) == (True, True, "running")
    heir.remove()
    first.remove()


@pytest.mark.parametrize("name", ["scripted", "local", pytest.param("docker", marks=pytest.mark.engine)])
def test_nothing_is_executed_in_what_does_not_run(name: str) -> None:
    with DRIVERS[name]() as stage:
        container = stage.prepare(STAYS)
        with pytest.raises(DriverError):
            container.execute(Execution(("true",), {}), lambda *_: None)
        container.remove()


def test_a_process_that_is_gone_is_neither_stopped_nor_anybodys_family() -> None:
    beyond = 2**22 + 1
    assert (family.stopped(beyond), family.family(beyond)) == (False, [])


def test_a_process_that_starts_others_all_the_time_is_stopped_whenever_it_is_told_to() -> None:
    """One in five or so is caught between the two halves of a vfork, where it cannot stop itself."""
    with DRIVERS["local"]() as stage:
        container = stage.prepare(("sh", "-c", "while :; do /bin/true; done"))
        container.start()
        for _ in range(50):
            assert (container.pause(), container.inspect().status) == (True, "paused")
            assert (container.resume(), container.inspect().status) == (True, "running")
        container.remove()


# Sessions.


def test_the_example_is_true() -> None:
    assert doctest.testmod(direct) == (0, 8)


def session(stage: Stage, command: tuple[str, ...], **options: object) -> Session:
    spec = Spec.parse(driver=stage.driver.name, command=command, **stage.options, **options)
    return Session(stage.driver, spec, f"{stage.prefix}by-hand", clock=stage.clock)


def kinds(session: Session) -> list[Kind]:
    return [event.kind for event in session.events]


def said(session: Session, stream: int, *, follow: bool = True) -> bytes:
    return b"".join(data for number, data in session.logs(follow=follow) if number == stream)


def until_said(session: Session, text: bytes) -> None:
    while text not in said(session, STDOUT, follow=False):
        assert session.wait(timeout=0.05) is None


def test_step_by_step_to_the_end(stage: Stage) -> None:
    call = session(stage, FAILS)
    assert (call.prepare(), call.prepare(), call.start(), call.start(), call.prepare()) == (
        True,
        False,
        True,
        False,
        False,
    )
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code) == ("error", "exit", 3)
    assert (call.wait(), call.stop(), call.terminate(), call.outcome) == (ended,) * 4
    assert (said(call, STDOUT), said(call, STDERR)) == (b"hello", b"oops")
    call.remove()
    call.remove()
    call.close()
    assert kinds(call) == [Kind.SUBMITTED, Kind.PREPARED, Kind.STARTED, Kind.FAILED, Kind.CLEANED]
    for step in (call.signal, call.pause, call.resume):
        with pytest.raises(NotRunningError):
            step(*("TERM",) * (step == call.signal))


def test_an_end_that_does_not_come_can_be_waited_for_again(stage: Stage) -> None:
    call = session(stage, STAYS)
    call.start()
    assert [call.wait(timeout=0.01), call.wait(timeout=0), call.state] == [None, None, State.RUNNING]
    ended = call.terminate()
    assert (ended.state, ended.reason, ended.exit_code, ended.signal) == ("killed", "user", 137, "KILL")
    call.remove()


def test_a_stop_has_its_grace_and_reaches_what_is_paused(stage: Stage) -> None:
    call = session(stage, TALKS)
    call.start()
    until_said(call, b"first")
    assert (call.pause(), call.state) == (True, State.PAUSED)
    ended = call.stop(grace=20)
    assert (ended.state, ended.reason, ended.exit_code) == ("cancelled", "user", 5)
    assert said(call, STDOUT) == b"first\nsecond\n"
    assert Kind.RESUMED in kinds(call) or stage.driver.name == "scripted"  # there it answers while it is frozen
    call.remove()


def test_without_a_grace_it_is_killed_at_once(stage: Stage) -> None:
    call = session(stage, STAYS)
    call.start()
    ended = call.stop(grace=0)
    assert (ended.state, ended.exit_code) == ("cancelled", 137)
    call.remove()


def test_a_pause_by_hand_ends_by_hand(stage: Stage) -> None:
    call = session(stage, STAYS)
    call.start()
    assert [call.pause(), call.pause()] == [True] * 2
    let_pause_settle()
    assert [call.resume(), call.resume()] == [True] * 2
    assert kinds(call)[3:] == [Kind.PAUSED, Kind.RESUMED]
    call.terminate()
    call.remove()


def test_a_signal_is_a_message_and_the_code_the_programs_own(stage: Stage) -> None:
    call = session(stage, TALKS)
    call.start()
    until_said(call, b"first")
    call.signal("SIGTERM")
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason, ended.exit_code, ended.signal) == ("error", "exit", 5, None)
    call.remove()


def test_what_cannot_be_started_has_never_run(stage: Stage) -> None:
    call = session(stage, MISSING)
    with pytest.raises(DriverError, match="nosuch-command"):
        call.start()
    assert call.outcome is not None
    assert (call.outcome.reason, call.outcome.never_ran) == ("start-not-found", True)
    with pytest.raises(CallEndedError):
        call.start()
    assert call.wait() == call.outcome
    call.remove()


def test_what_is_stopped_before_its_start_never_runs(stage: Stage) -> None:
    call = session(stage, STAYS)
    call.prepare()
    with pytest.raises(NotRunningError):
        call.wait()
    assert call.stop().never_ran
    with pytest.raises(CallEndedError):
        call.start()
    call.remove()
    assert kinds(call) == [Kind.SUBMITTED, Kind.PREPARED, Kind.CANCELLED, Kind.CLEANED]


def test_what_runs_is_stopped_before_it_is_removed(stage: Stage) -> None:
    call = session(stage, TALKS, stop_timeout="20s")
    call.start()
    until_said(call, b"first")
    call.remove()
    assert call.outcome is not None
    assert (call.outcome.state, call.outcome.exit_code) == ("cancelled", 5)
    assert kinds(call)[-1] is Kind.CLEANED


def test_the_same_call_has_one_container_by_hand_too(stage: Stage) -> None:
    first, second = session(stage, STAYS), session(stage, STAYS)
    assert (first.prepare(), second.prepare()) == (True, True)
    containers = {call._container.preparation.container for call in (first, second) if call._container}
    assert len(containers) == 1
    first.remove()
    second.close()


def test_a_deadline_is_kept_by_hand_too(stage: Stage) -> None:
    call = session(stage, STAYS, timeout="300ms", stop_timeout=0)
    call.start()
    ended = call.wait()
    assert ended is not None
    assert (ended.state, ended.reason) == ("timeout", "deadline")
    call.remove()


def test_an_option_that_cannot_be_honoured_is_refused_at_once() -> None:
    with DRIVERS["local"]() as stage, pytest.raises(SpecError):
        session(stage, STAYS, memory="64m")


def test_output_is_followed_by_another_thread_from_before_the_start(stage: Stage) -> None:
    call, heard = session(stage, FAILS), list[bytes]()
    listener = threading.Thread(target=lambda: heard.append(said(call, STDOUT)))
    listener.start()
    call.start()
    call.wait()
    listener.join(60)
    assert heard == [b"hello"]
    call.remove()


def test_closing_ends_the_output_for_who_follows_it(stage: Stage) -> None:
    call, heard = session(stage, STAYS), list[bytes]()
    listener = threading.Thread(target=lambda: heard.append(said(call, STDOUT)))
    listener.start()
    call.start()
    call.close()
    listener.join(60)
    assert heard == [b""]
    assert call._container is not None
    call._container.remove()
