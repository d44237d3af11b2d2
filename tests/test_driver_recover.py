"""What every driver promises to whoever takes a call over, held against each of them.

One that keeps nothing of a process before its start and after its end (`outlives`) finds nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract import DRIVERS, FAILS, NEEDS_ENGINE, STAYS, SUCCEEDS, TALKS, Stage

from driver.protocol import STDERR, STDOUT, Destroyed, Died, ForeignSignal, OutputEnded, Trace
from machine.units import SECOND

_PARAMETERS = [pytest.param(name, marks=pytest.mark.engine if name in NEEDS_ENGINE else ()) for name in DRIVERS]


@pytest.fixture(params=_PARAMETERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One driver after the other."""
    with DRIVERS[request.param]() as stage:
        yield stage


def test_a_call_that_never_had_a_container(stage: Stage) -> None:
    """None, and looking makes none."""
    assert stage.recover(STAYS) is None
    assert stage.driver.leftovers() == []


def test_a_container_that_was_removed(stage: Stage) -> None:
    container = stage.prepare(STAYS)
    container.start()
    container.remove()
    assert stage.successor().recover(STAYS) is None


def test_a_container_of_another_ledger(stage: Stage) -> None:
    """The same call, by its id, and still not ours."""
    container = stage.prepare(STAYS)
    container.start()
    assert stage.stranger().recover(STAYS) is None
    container.remove()


def test_what_was_prepared_is_found_and_not_started(stage: Stage) -> None:
    container, ear = stage.prepare(STAYS), stage.ear()
    found = stage.successor().recover(STAYS, ear)
    if not stage.outlives:
        assert found is None
        return
    assert found is not None
    assert found.preparation == container.preparation
    assert (found.inspect().status, found.inspect().started_at) == ("created", None)
    assert container.inspect().status == "created"
    found.remove()
    assert container.inspect().status == "gone"


def test_what_was_never_started_is_discarded(stage: Stage) -> None:
    """Once and for all, and again with the same answer."""
    container = stage.prepare(STAYS)
    found = stage.successor().found(STAYS) if stage.outlives else container
    assert found.discard() is True
    assert found.discard() is True
    assert container.inspect().status == "gone"
    assert stage.successor().recover(STAYS) is None


def test_what_runs_is_not_discarded(stage: Stage) -> None:
    container = stage.prepare(STAYS)
    container.start()
    found = stage.successor().found(STAYS)
    assert found.discard() is False
    assert container.discard() is False
    assert container.inspect().status == "running"
    container.remove()


def test_what_has_ended_is_not_discarded(stage: Stage) -> None:
    ear = stage.ear()
    container = stage.prepare(SUCCEEDS, ear)
    container.start()
    ear.until(Died)
    assert container.discard() is False
    if stage.outlives:
        assert stage.successor().found(SUCCEEDS).discard() is False
    assert container.inspect().exit_code == 0
    container.remove()


def test_what_runs_is_found_as_it_is(stage: Stage) -> None:
    """The same container, and the same start."""
    container = stage.prepare(STAYS)
    beginning = container.start()
    begun, found = container.inspect(), stage.successor().found(STAYS)
    seen = found.inspect()
    assert found.preparation.container == container.preparation.container
    assert (seen.status, seen.pid, seen.exit_code) == ("running", begun.pid, None)
    assert seen.started_at is not None
    assert abs(seen.started_at - (beginning.engine_at or seen.started_at)) < 20 * SECOND
    container.remove()


def test_by_its_recorded_number_and_by_no_other(stage: Stage) -> None:
    """A process that has the number now is not the call's because of that."""
    container, other = stage.prepare(STAYS), stage.prepare(STAYS, uid="other")
    container.start()
    other.start()
    since = stage.clock.wall()
    known = Trace(since, container.preparation.container, container.inspect().pid)
    found = stage.successor().recover(STAYS, trace=known)
    assert found is not None
    assert found.inspect().status == "running"
    if not stage.outlives:
        assert stage.successor().recover(STAYS, trace=Trace(since, pid=other.inspect().pid)) is None
    container.remove()
    other.remove()


def test_a_call_that_is_taken_over_to_its_end(stage: Stage) -> None:
    """Its output comes once, from the beginning where that is kept, and goes on; then its end and exit code."""
    first, second = stage.ear(), stage.ear()
    container = stage.prepare(TALKS, first)
    container.start()
    first.until_said(STDOUT, b"first")
    found = stage.successor().found(TALKS, second)
    whole = found.rejoin()
    assert found.rejoin() is whole is stage.outlives
    if whole:
        second.until_said(STDOUT, b"first")
    assert found.signal("TERM") is True
    second.until(OutputEnded)
    if whole:
        assert second.until(Died).exit_code == 5
        assert second.said == {STDOUT: b"first\nsecond\n", STDERR: b""}
        assert found.inspect().exit_code == 5
    else:
        assert second.said[STDOUT] == b""
        assert found.inspect().status == "gone"
    assert found.signal("TERM") is False
    second.rest()
    assert sum(isinstance(fact, OutputEnded) for fact in second.facts) == 1
    found.remove()


def test_a_call_that_ended_meanwhile(stage: Stage) -> None:
    """What is left of its output comes, and its end."""
    first, second = stage.ear(), stage.ear()
    container = stage.prepare(FAILS, first)
    container.start()
    first.until(Died)
    first.until(OutputEnded)
    if stage.outlives:
        found = stage.successor().found(FAILS, second)
        assert found.rejoin() is True
        second.until(OutputEnded)
        assert second.said == {STDOUT: b"hello", STDERR: b"oops"}
        assert (found.inspect().status, found.inspect().exit_code) == ("exited", 3)
        found.remove()
    else:
        assert stage.successor().recover(FAILS, second) is None
        container.remove()


def test_a_call_that_is_removed_in_the_very_moment(stage: Stage) -> None:
    """It is over: nothing comes but the end."""
    container, ear = stage.prepare(STAYS), stage.ear()
    container.start()
    found = stage.successor().found(STAYS, ear)
    container.remove()
    assert found.rejoin() is False
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b""
    assert found.inspect().status == "gone"


def test_signals_of_the_time_between_are_reported(stage: Stage) -> None:
    """And later ones, each once: those of another runner are somebody else's. A process keeps no such memory."""
    if not stage.outlives:
        pytest.skip("nobody remembers the signals of a process")
    ear = stage.ear()
    container = stage.prepare(STAYS)
    container.start()
    since = stage.clock.wall()
    container.signal("WINCH")
    found = stage.successor().recover(STAYS, ear, trace=Trace(since, container.preparation.container))
    assert found is not None
    found.rejoin()
    assert ear.until(ForeignSignal).signal == "WINCH"
    found.signal("KILL")
    assert ear.until(Died).exit_code == 137
    ear.rest()
    assert [fact.signal for fact in ear.facts if isinstance(fact, ForeignSignal)] == ["WINCH"]
    container.remove()
    ear.until(Destroyed)


def test_what_was_recorded_is_not_reported_again(stage: Stage) -> None:
    """Facts come from `since` on."""
    if not stage.outlives:
        pytest.skip("nobody remembers the signals of a process")
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(SUCCEEDS, first)
    container.start()
    first.until(Died)
    first.until(OutputEnded)
    since = max(fact.at for fact in first.facts) + 1
    found = stage.successor().recover(SUCCEEDS, ear, trace=Trace(since))
    assert found is not None
    found.rejoin()
    ear.until(OutputEnded)
    ear.rest()
    assert [type(fact) for fact in ear.facts] == [OutputEnded] or stage.driver.name == "scripted"
    found.remove()


def test_the_environment_that_it_began_with(stage: Stage) -> None:
    """What was secret in it is nowhere else."""
    changed = stage._replace(options={**stage.options, "env": {"TOKEN": "a=b c"}})  # type: ignore[dict-item]
    container = changed.prepare(STAYS)
    container.start()
    assert container.environment()["TOKEN"] == "a=b c"
    assert stage.successor().found(STAYS).environment()["TOKEN"] == "a=b c"
    container.remove()


def test_leftovers_are_those_of_the_ledger(stage: Stage) -> None:
    """Of any runner of it, running or not, and of no other."""
    mine, next_one, stranger = stage.prepare(STAYS, uid="mine"), stage.successor(), stage.stranger()
    other, created = next_one.prepare(STAYS, uid="other"), stage.prepare(STAYS, uid="created")
    foreign = stranger.prepare(STAYS, uid="foreign")
    for container in (mine, other, foreign):
        container.start()
    now = stage.clock.wall()
    left = {one.uid.removeprefix(stage.prefix): one for one in next_one.driver.leftovers()}
    assert set(left) == {"mine", "other", "created"} - (set() if stage.outlives else {"created"})
    assert left["mine"]._replace(created_at=0) == (
        f"{stage.prefix}mine", stage.labels.runner, mine.preparation.container, "running", 0
    )  # fmt: skip
    assert left["other"].runner == next_one.labels.runner
    assert not stage.outlives or left["created"].status == "created"
    assert all(-2 * SECOND <= now - one.created_at < 60 * SECOND for one in left.values())
    for container in (mine, other, foreign, created):
        container.remove()
    assert next_one.driver.leftovers() == stranger.driver.leftovers() == []


def test_reaping_removes_one_and_touches_no_other(stage: Stage) -> None:
    """Gone already is fine."""
    ear = stage.ear()
    mine, other = stage.prepare(STAYS, ear, "mine"), stage.prepare(STAYS, uid="other")
    stranger = stage.stranger()
    foreign = stranger.prepare(STAYS, uid="foreign")
    for container in (mine, other, foreign):
        container.start()
    driver = stage.successor().driver
    (left,) = [one for one in driver.leftovers() if one.uid.endswith("mine")]
    driver.reap(left)
    driver.reap(left)
    ear.until(Destroyed if stage.outlives else Died)
    assert mine.inspect().status != "running"
    assert [one.uid for one in driver.leftovers()] == [f"{stage.prefix}other"]
    assert other.inspect().status == foreign.inspect().status == "running"
    for container in (mine, other, foreign):
        container.remove()


def test_a_recovered_container_is_ended_and_removed(stage: Stage) -> None:
    """As one of our own: totals can be asked for, and nothing is left."""
    container, ear = stage.prepare(STAYS), stage.ear()
    container.start()
    found = stage.successor().found(STAYS, ear)
    found.rejoin()
    assert found.signal("KILL") is True
    ear.until(OutputEnded)
    totals = found.totals()
    assert found.totals() == totals
    found.remove()
    found.remove()
    assert found.inspect().status == "gone"
    assert stage.driver.leftovers() == []
    container.remove()


def test_letting_go_of_it_leaves_it_running(stage: Stage) -> None:
    """Nothing is heard afterwards; the next one may take it over."""
    container, ear = stage.prepare(TALKS), stage.ear()
    container.start()
    next_one = stage.successor()
    found = next_one.found(TALKS, ear)
    found.rejoin()
    found.close()
    found.close()
    next_one.driver.close()
    assert container.inspect().status == "running"
    again, last = stage.successor().found(TALKS, ear), stage.ear()
    assert again.inspect().status == "running"
    again = stage.successor().found(TALKS, last)
    again.rejoin()
    again.signal("KILL")
    last.until(OutputEnded)
    ear.rest()
    assert not any(isinstance(fact, Died | OutputEnded) for fact in ear.facts)
    container.remove()
