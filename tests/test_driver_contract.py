"""What every driver promises (`driver.protocol`), held against each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract import (
    DRIVERS,
    FAILS,
    MISSING,
    NEEDS_ENGINE,
    SHOUTED,
    SHOUTS,
    STAYS,
    SUCCEEDS,
    Stage,
)

from driver.protocol import STDERR, STDOUT, Container, Died, OutputEnded
from machine.errors import DriverError
from machine.states import Reason
from machine.units import SECOND

MOMENT = 20 * SECOND
"""How far apart two clocks' readings of one instant may be, on a machine that is very busy."""
_PARAMETERS = [pytest.param(name, marks=pytest.mark.engine if name in NEEDS_ENGINE else ()) for name in DRIVERS]


@pytest.fixture(params=_PARAMETERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One driver after the other."""
    with DRIVERS[request.param]() as stage:
        yield stage


@pytest.fixture
def running(stage: Stage) -> Iterator[Container]:
    """A container that would run for ten minutes."""
    container = stage.prepare(STAYS)
    container.start()
    yield container
    container.remove()


def test_prepare_starts_nothing(stage: Stage) -> None:
    """Between prepare and start there is a container, and it has never run."""
    container = stage.prepare(FAILS)
    seen = container.inspect()
    assert (seen.status, seen.started_at, seen.finished_at) == ("created", None, None)
    assert container.preparation.container
    container.remove()


def test_a_second_start_does_not_run_it_twice(stage: Stage) -> None:
    """It is answered with what the first one began."""
    ear = stage.ear()
    container = stage.prepare(FAILS, ear)
    beginning = container.start()
    assert container.start() == beginning
    ear.until(Died)
    ear.until(OutputEnded)
    assert container.start() == beginning
    assert ear.said[STDOUT] == b"hello"
    container.remove()


def test_the_same_call_has_one_container(stage: Stage) -> None:
    """Preparing a call again finds the container it has."""
    ear = stage.ear()
    first, again = stage.prepare(FAILS, ear), stage.prepare(FAILS, ear)
    assert again.preparation.container == first.preparation.container
    again.start()
    ear.until(OutputEnded)
    assert first.inspect().status != "created"
    again.remove()


def test_two_calls_have_two_containers(stage: Stage) -> None:
    """The end of one is not the end of the other."""
    ear, other = stage.ear(), stage.ear()
    short, long = stage.prepare(FAILS, ear, "one"), stage.prepare(STAYS, other, "two")
    short.start()
    long.start()
    assert ear.until(Died).exit_code == 3
    assert long.inspect().status == "running"
    short.remove()
    long.remove()


@pytest.mark.parametrize(("command", "code"), [(SUCCEEDS, 0), (FAILS, 3)])
def test_the_exit_code_is_reported_and_recorded(stage: Stage, command: tuple[str, ...], code: int) -> None:
    """The event and the record agree, and so do the times."""
    ear = stage.ear()
    container = stage.prepare(command, ear)
    beginning = container.start()
    died = ear.until(Died)
    seen = container.inspect()
    assert (died.exit_code, died.signal) == (code, None)
    assert (seen.status, seen.exit_code, seen.oom_killed) == ("exited", code, False)
    assert seen.started_at is not None
    assert seen.finished_at is not None
    # An engine notes a start when the process is on its way: `true` may have ended a moment before that.
    assert seen.started_at <= seen.finished_at + MOMENT
    if beginning.engine_at is not None:  # it came in time
        assert abs(beginning.engine_at - seen.started_at) < MOMENT
    container.remove()


def test_each_end_is_reported_once(stage: Stage) -> None:
    """One Died, one OutputEnded, and nothing else of a call that nobody disturbed."""
    ear = stage.ear()
    container = stage.prepare(FAILS, ear)
    container.start()
    ear.until(Died)
    ear.until(OutputEnded)
    container.remove()
    assert sorted(type(fact).__name__ for fact in ear.facts) == ["Died", "OutputEnded"]


def test_our_own_removal_is_no_news(stage: Stage) -> None:
    """When the next call's end is known, nothing more has come from the one that was removed."""
    ear, other = stage.ear(), stage.ear()
    first, second = stage.prepare(STAYS, ear, "one"), stage.prepare(SUCCEEDS, other, "two")
    first.start()
    first.signal("KILL")
    ear.until(Died)
    ear.until(OutputEnded)
    ear.rest()
    heard = list(ear.facts)
    first.remove()
    second.start()
    other.until(Died)
    ear.rest()
    assert ear.facts == heard
    second.remove()


def test_output_arrives_whole_and_before_its_end(stage: Stage) -> None:
    """Both streams apart, every byte, and OutputEnded only after the last."""
    ear = stage.ear()
    container = stage.prepare(FAILS, ear)
    container.start()
    ear.until(OutputEnded)
    assert ear.said == {STDOUT: b"hello", STDERR: b"oops"}
    container.remove()


def test_much_output_arrives_whole(stage: Stage) -> None:
    """More than any buffer on the way holds."""
    ear = stage.ear()
    container = stage.prepare(SHOUTS, ear)
    container.start()
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == SHOUTED
    container.remove()


def test_a_signal_ends_what_runs(stage: Stage) -> None:
    """It is delivered (True), and the exit code names it."""
    ear = stage.ear()
    container = stage.prepare(STAYS, ear)
    container.start()
    assert container.inspect().status == "running"
    assert container.signal("KILL") is True
    assert ear.until(Died).exit_code == 137
    assert container.inspect().exit_code == 137
    container.remove()


def test_no_signal_reaches_what_does_not_run(stage: Stage) -> None:
    """False before the start and after the end: the runner must not believe that it ended the call."""
    ear = stage.ear()
    container = stage.prepare(SUCCEEDS, ear)
    assert container.signal("TERM") is False
    container.start()
    ear.until(Died)
    assert container.signal("TERM") is False
    assert container.signal("KILL") is False
    assert container.inspect().exit_code == 0
    container.remove()


def test_totals_are_known_or_none(stage: Stage) -> None:
    """After the end they can be asked for, again and again, sampled or not."""
    ear = stage.ear()
    container = stage.prepare(SHOUTS, ear)
    container.start()
    ear.until(Died)
    totals = container.totals()
    assert totals is None or totals.cpu_total_ns is None or totals.cpu_total_ns > 0
    assert container.totals() == totals
    container.remove()


def test_totals_of_what_never_ran(stage: Stage) -> None:
    """There are none, and asking is no error."""
    container = stage.prepare(SUCCEEDS)
    assert container.totals() is None
    container.remove()


def test_remove_is_final_and_idempotent(stage: Stage) -> None:
    """Afterwards it is gone, and may be removed again."""
    ear = stage.ear()
    container = stage.prepare(SUCCEEDS, ear)
    container.start()
    ear.until(Died)
    container.remove()
    container.remove()
    assert container.inspect().status == "gone"


def test_remove_before_start(stage: Stage) -> None:
    """It is gone, may be removed again, and can never be started."""
    container = stage.prepare(SUCCEEDS)
    container.remove()
    container.remove()
    assert container.inspect().status == "gone"
    assert container.signal("KILL") is False
    with pytest.raises(DriverError):
        container.start()


def test_remove_ends_what_runs(running: Container) -> None:
    """Nothing is left to take a signal."""
    running.remove()
    assert running.inspect().status == "gone"
    assert running.signal("TERM") is False


def test_close_lets_go_of_the_ear_not_of_the_container(running: Container) -> None:
    """It may be closed again, and still be inspected and ended."""
    running.close()
    running.close()
    assert running.inspect().status == "running"
    assert running.signal("KILL") is True


def test_a_missing_command(stage: Stage) -> None:
    """Start says which verdict that is; the process never ran."""
    container = stage.prepare(MISSING)
    with pytest.raises(DriverError) as refused:
        container.start()
    assert refused.value.reason is Reason.START_NOT_FOUND
    assert "nosuch-command" in str(refused.value)
    assert container.inspect().started_at is None
    assert container.signal("KILL") is False
    container.remove()


def test_describe_names_the_driver(stage: Stage) -> None:
    """What `calls doctor` shows."""
    assert stage.driver.describe()["driver"] == stage.driver.name


def test_a_driver_may_be_closed_twice(stage: Stage) -> None:
    """And its containers after it."""
    container = stage.prepare(SUCCEEDS)
    container.remove()
    stage.driver.close()
    stage.driver.close()
    container.close()
