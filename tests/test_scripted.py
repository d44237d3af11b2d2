"""The scripted driver: time belongs to the test, and what the script says is what is seen."""

from __future__ import annotations

from typing import Any

import pytest
from contract import Ear
from playing import SPEC, heard, play

from driver.protocol import (
    STDERR,
    STDOUT,
    Destroyed,
    Died,
    Fact,
    ForeignSignal,
    Froze,
    HealthCheck,
    HealthStatus,
    Observation,
    OomKilled,
    OutputEnded,
    Thawed,
    Unwatched,
)
from driver.sampler import Sampler
from driver.scripted import Schedule, Script, ScriptedContainer, ScriptedDriver, Step, exits, happens, writes
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND

# The script.


def test_steps_happen_at_their_time_in_any_order() -> None:
    """`after` counts from the start of the container."""
    schedule, container, ear = play(
        Script([exits(3, after=2.5), writes(b"out", after=1), writes(b"err", STDERR, after=2)]), start=False
    )
    schedule.advance(10 * SECOND)
    begun = container.start().engine_at
    assert begun == schedule.wall()
    ear.until_said(STDOUT, b"out")
    assert schedule.wall() - begun == SECOND
    assert ear.until(Died) == Died(begun + 5 * SECOND // 2, 3, "die")
    assert ear.said == {STDOUT: b"out", STDERR: b"err"}


@pytest.mark.parametrize(
    ("step", "fact", "seen"),
    [
        (happens(OomKilled, "cgroup"), OomKilled(0, "cgroup"), {"oom_killed": True}),
        (happens(HealthStatus, "healthy"), HealthStatus(0, "healthy"), {"health": "healthy"}),
        (happens(Froze), Froze(0), {"status": "paused"}),
        (happens(Thawed), Thawed(0), {"status": "running"}),
        (happens(Destroyed), Destroyed(0), {"status": "gone", "started_at": None}),
        (happens(Unwatched, 0, "a gap"), Unwatched(0, 0, "a gap"), {"status": "running"}),
        (happens(Died, 137, "wait4", 9), Died(0, 137, "wait4", 9), {"status": "exited", "exit_code": 137}),
    ],
)
def test_every_fact_is_reported_and_leaves_its_trace(step: Step, fact: Fact, seen: dict[str, Any]) -> None:
    """The ear and `inspect` learn the same."""
    schedule = Schedule(wall=0)
    ear = Ear(schedule)
    container = ScriptedDriver(schedule, Script([step])).prepare("u", SPEC, ear)
    container.start()
    assert ear.until(type(fact)) == fact
    assert {name: getattr(container.inspect(), name) for name in seen} == seen


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [(exits(4, seen=False, after=1), "exited", 4), (happens(Destroyed, seen=False, after=1), "gone", None)],
)
def test_a_lost_event_is_known_to_inspect_alone(step: Step, status: str, code: int | None) -> None:
    """The end of the output may still betray it, unless something holds that open."""
    for output_ends in (True, False):
        _, container, ear = play(Script([step], output_ends=output_ends))
        assert [type(fact) for fact in heard(ear)] == [OutputEnded] * output_ends
        assert (container.inspect().status, container.inspect().exit_code) == (status, code)


def test_what_a_process_does_ends_with_it() -> None:
    """What others do may come late: an OOM event after the exit, a removal."""
    late = [writes(b"late"), exits(9), happens(HealthStatus, "unhealthy"), happens(Froze)]
    others = [happens(OomKilled, after=2), happens(ForeignSignal, "TERM", True, after=2)]
    _, container, ear = play(Script([exits(0), *late, *others, happens(Destroyed, after=3)]))
    kinds = [type(fact) for fact in heard(ear)]
    assert kinds == [OutputEnded, Died, OomKilled, ForeignSignal, Destroyed]
    assert ear.said[STDOUT] == b""
    assert container.inspect() == Observation("gone")


def test_a_health_check_is_in_force() -> None:
    """The preparation says so, and the status is `starting` until a step says otherwise."""
    check = HealthCheck(interval=SECOND, timeout=SECOND, retries=3, start_period=0)
    _, container, ear = play(
        Script([happens(HealthStatus, "unhealthy", after=1)], health=check, health_output="no answer")
    )
    assert container.preparation.health == check
    assert container.inspect().health == "starting"
    ear.until(HealthStatus)
    assert (container.inspect().health, container.inspect().health_output) == ("unhealthy", "no answer")


def test_the_stop_signal_in_force() -> None:
    """The spec's, else the image's, else TERM."""
    asked = Spec.parse(driver="scripted", command=["x"], stop_signal="INT")
    schedule = Schedule()
    for script, spec, signal in (
        (Script(), SPEC, "TERM"),
        (Script(stop_signal="QUIT"), SPEC, "QUIT"),
        (Script(stop_signal="QUIT"), asked, "INT"),
    ):
        container = ScriptedDriver(schedule, script).prepare("u", spec, Ear(schedule))
        assert container.preparation.stop_signal == signal


# Signals.


@pytest.mark.parametrize(("name", "code"), [("KILL", 137), ("TERM", 143), ("SIGINT", 130), ("15", 143)])
def test_a_signal_ends_it_at_once(name: str, code: int) -> None:
    """With 128 and its number, as a process that does not care."""
    schedule, container, ear = play(Script([exits(0, after=60)]))
    assert container.signal(name)
    assert ear.until(Died).exit_code == code
    assert schedule.monotonic() == 0
    assert [type(fact) for fact in heard(ear)] == [OutputEnded, Died]


def test_a_signal_is_answered_as_the_script_says() -> None:
    """Ignored, or followed by a step that counts from the signal; KILL stays KILL."""
    schedule, container, ear = play(Script(on_signal={"TERM": None, "INT": exits(5, after=3)}))
    assert container.signal("TERM")
    schedule.advance(SECOND)
    assert container.inspect().status == "running"
    assert container.signal("INT")
    assert ear.until(Died).exit_code == 5
    assert schedule.monotonic() == 4 * SECOND
    assert container.signal("KILL") is False


def test_a_foreign_signal_is_reported_and_answered() -> None:
    """As one of ours would be."""
    _, _, ear = play(Script([happens(ForeignSignal, "KILL", after=1)]))
    assert [type(fact) for fact in heard(ear)] == [ForeignSignal, OutputEnded, Died]
    assert ear.until(Died).exit_code == 137


# What goes wrong.


def test_refusals() -> None:
    """Each is raised instead of doing it."""
    error = DriverError(Reason.LOST, "refused")
    with pytest.raises(DriverError, match="refused"):
        play(Script(refuse_prepare=error))
    for script, act in (
        (Script(refuse_start=error), ScriptedContainer.start),
        (Script(refuse_signal=error), lambda container: container.signal("TERM")),
        (Script(refuse_remove=error), ScriptedContainer.remove),
    ):
        _, container, _ = play(script, start=script.refuse_start is None)
        before = container.inspect()
        with pytest.raises(DriverError, match="refused"):
            act(container)
        assert container.inspect() == before


def test_a_start_that_nobody_answers() -> None:
    """It happened, once, however often it is asked for."""
    _, container, ear = play(Script([exits(0)], start_unanswered=True), start=False)
    with pytest.raises(UnknownOutcomeError):
        container.start()
    assert container.start().engine_at == container.inspect().started_at
    assert ear.until(Died).exit_code == 0
    assert container.starts == 1


def test_a_pull_takes_its_time() -> None:
    """And is reported; other things happen meanwhile."""
    schedule, _, ear = play(Script(pulls=90.5))
    assert ear.pulls == [("img", 90.5, None)]
    assert schedule.monotonic() == 90.5 * SECOND


def test_a_pull_that_is_given_up() -> None:
    """Within a second, as soon as the watcher does not want it any more."""
    schedule = Schedule()
    ear = Ear(schedule)
    schedule.at(10 * SECOND, lambda: setattr(ear, "gives_up", True))
    with pytest.raises(DriverError) as given_up:
        ScriptedDriver(schedule, Script(pulls=600)).prepare("u", SPEC, ear)
    assert given_up.value.reason is Reason.PULL_FAILED
    assert schedule.monotonic() == 10 * SECOND
    assert ear.pulls == []


# Samples and records.


@pytest.mark.parametrize(("ends_early", "count"), [(False, 3), (True, 2)])
def test_samples_come_with_their_rates(ends_early: bool, count: int) -> None:  # noqa: FBT001
    """One at once, then one each interval, until it ends or totals are asked for; never by real time."""
    seen: list[tuple[int, float | None]] = []
    samples = [Sample(cpu_total_ns=count * SECOND) for count in range(5)]
    schedule, container, _ = play(Script([exits(0, after=5)], samples=samples, totals=samples[-1]))
    begun = schedule.wall()
    container.observe(Sampler(), 2 * SECOND, lambda at, sample: seen.append((at - begun, sample.cpu_total_pct)))
    schedule.advance(3 * SECOND)
    if ends_early:
        assert container.totals() == samples[-1]
    schedule.advance(60 * SECOND)
    assert seen == [(0, None), (2 * SECOND, 50), (4 * SECOND, 50)][:count]


def test_what_was_asked_for_is_recorded() -> None:
    """In order, whether or not it did anything."""
    schedule = Schedule()
    driver = ScriptedDriver(schedule, Script([exits(0, after=1)]))
    container = driver.prepare("u", SPEC, Ear(schedule))
    container.start()
    container.start()
    container.signal("SIGTERM")
    container.remove()
    assert driver.actions == ["prepare", "start", "start", "signal TERM", "remove"]
    assert driver.containers == {"u": container}
    assert container.starts == 1


def test_a_script_for_each_call() -> None:
    """Chosen by its uid and spec."""
    schedule, scripts = Schedule(), {"one": Script([exits(1)]), "two": Script([exits(2)])}
    driver, ear = ScriptedDriver(schedule, lambda uid, _: scripts[uid]), Ear(schedule)
    driver.prepare("two", SPEC, ear).start()
    assert ear.until(Died).exit_code == 2
