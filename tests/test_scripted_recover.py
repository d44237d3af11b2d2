"""The scripted driver beyond the contract: runners that die, and what the next one learns."""

from __future__ import annotations

import pytest
from contract import Ear
from playing import SPEC, heard

from driver.protocol import STDOUT, Destroyed, Died, ForeignSignal, Froze, OomKilled, OutputEnded, Trace
from driver.scripted import Schedule, Script, ScriptedDriver, exits, happens, writes
from machine.errors import DriverError
from machine.states import Reason
from machine.units import SECOND


def test_another_runner_adopts_what_goes_on() -> None:
    """After `close` nothing is reported; whoever prepares the call again hears the rest of it."""
    schedule = Schedule()
    driver = ScriptedDriver(schedule, Script([writes(b"lost", after=1), exits(0, after=3)]))
    first, second = Ear(schedule), Ear(schedule)
    container = driver.prepare("u", SPEC, first)
    container.start()
    driver.close()
    schedule.advance(2 * SECOND)
    assert driver.prepare("u", SPEC, second) is container
    assert container.start().engine_at == container.inspect().started_at
    assert second.until(Died).exit_code == 0
    assert (heard(first), first.said[STDOUT], container.starts) == ([], b"", 1)


def test_a_removed_container_is_not_adopted() -> None:
    """The call gets a new one."""
    schedule = Schedule()
    driver = ScriptedDriver(schedule, Script())
    container = driver.prepare("u", SPEC, Ear(schedule))
    container.remove()
    assert driver.prepare("u", SPEC, Ear(schedule)) is not container


def handed_over(script: Script, *, after: int) -> tuple[Schedule, ScriptedDriver, Ear, Ear]:
    """A call whose runner dies `after` seconds; -> the clock, the next runner's driver, the ears of both."""
    schedule = Schedule()
    first, second = Ear(schedule), Ear(schedule)
    driver = ScriptedDriver(schedule, script)
    driver.prepare("u", SPEC, first).start()
    schedule.advance(after * SECOND)
    driver.away = True
    return schedule, ScriptedDriver(schedule, script, driver.containers), first, second


def test_a_dead_runner_does_nothing_and_hears_nothing() -> None:
    """Whatever it would still ask for is refused, and its container goes on."""
    schedule = Schedule()
    ear = Ear(schedule)
    driver = ScriptedDriver(schedule, Script([writes(b"unheard", after=1), exits(0, after=9)]))
    container = driver.prepare("u", SPEC, ear)
    container.start()
    driver.away = True
    for act in (container.inspect, container.remove, container.start, container.rejoin, container.discard):
        with pytest.raises(DriverError) as refused:
            act()
        assert refused.value.reason is Reason.ENGINE_UNAVAILABLE
    with pytest.raises(DriverError):
        container.signal("KILL")
    with pytest.raises(DriverError):
        driver.recover("u", SPEC, ear, Trace(0))
    container.close()
    schedule.advance(5 * SECOND)
    driver.away = False
    assert container.inspect().status == "running"
    assert (heard(ear), ear.said[STDOUT]) == ([], b"")


def test_the_past_is_told_in_order() -> None:
    """Output first, then what happened since, then what comes."""
    script = Script([writes(b"a", after=1), happens(Froze, after=3), writes(b"b", after=4), exits(7, after=6)])
    schedule, driver, first, second = handed_over(script, after=2)
    schedule.advance(3 * SECOND)
    container = driver.recover("u", SPEC, second, Trace(schedule.wall() - 3 * SECOND))
    assert container is not None
    assert container.rejoin() is True
    second.until(Died)
    assert [type(fact) for fact in second.facts] == [Froze, OutputEnded, Died]
    assert (first.facts, first.said[STDOUT], second.said[STDOUT]) == ([], b"", b"ab")
    assert (container.starts, driver.actions) == (1, ["recover", "rejoin"])


def test_nothing_is_heard_before_it_is_rejoined() -> None:
    script = Script([writes(b"a", after=1), exits(0, after=3)])
    schedule, driver, _, second = handed_over(script, after=2)
    container = driver.recover("u", SPEC, second, Trace(0))
    assert container is not None
    schedule.advance(5 * SECOND)
    assert (second.facts, second.said[STDOUT]) == ([], b"")
    assert container.inspect().exit_code == 0
    container.rejoin()
    assert second.until(Died).exit_code == 0
    assert second.said[STDOUT] == b"a"


@pytest.mark.parametrize(("remembers", "said"), [(True, b"ab"), (False, b"b")])
def test_output_that_cannot_be_read_again(remembers: bool, said: bytes) -> None:  # noqa: FBT001
    """It is said so, and what comes from then on comes."""
    script = Script([writes(b"a", after=1), writes(b"b", after=3), exits(0, after=4)], remembers=remembers)
    _, driver, _, second = handed_over(script, after=2)
    container = driver.recover("u", SPEC, second, Trace(0))
    assert container is not None
    assert container.rejoin() is remembers
    second.until(Died)
    assert second.said[STDOUT] == said


@pytest.mark.parametrize("recalls", [True, False])
def test_a_source_that_forgets(recalls: bool) -> None:  # noqa: FBT001
    """What happened meanwhile is known to `inspect` alone."""
    script = Script([happens(OomKilled, after=1), exits(137, after=1)], recalls=recalls)
    _, driver, _, second = handed_over(script, after=2)
    container = driver.recover("u", SPEC, second, Trace(0))
    assert container is not None
    container.rejoin()
    kinds = [OutputEnded, OomKilled, Died] if recalls else [OutputEnded]
    assert [type(fact) for fact in heard(second)] == kinds
    assert (container.inspect().exit_code, container.inspect().oom_killed) == (137, True)


def test_two_that_hold_it_hear_of_each_other() -> None:
    """A signal of the one is somebody else's for the other, and so is its removal."""
    schedule = Schedule()
    first, second = Ear(schedule), Ear(schedule)
    driver = ScriptedDriver(schedule, Script([exits(0, after=60)], on_signal={"TERM": None}))
    container = driver.prepare("u", SPEC, first)
    container.start()
    other = ScriptedDriver(schedule, Script(), driver.containers).recover("u", SPEC, second, Trace(0))
    assert other is not None
    other.rejoin()
    container.signal("TERM")
    other.remove()
    assert [type(fact) for fact in heard(first)] == [OutputEnded, Destroyed]
    assert [type(fact) for fact in heard(second)] == [ForeignSignal]


def test_the_old_runner_may_let_go_of_what_another_has() -> None:
    """It takes nothing away from it."""
    schedule = Schedule()
    second = Ear(schedule)
    driver = ScriptedDriver(schedule, Script([exits(4, after=3)]))
    container = driver.prepare("u", SPEC, Ear(schedule))
    container.start()
    other = ScriptedDriver(schedule, Script(), driver.containers).recover("u", SPEC, second, Trace(0))
    assert other is not None
    other.rejoin()
    container.close()
    driver.close()
    assert second.until(Died).exit_code == 4


def test_a_namesake_of_another_ledger_is_not_taken() -> None:
    schedule = Schedule()
    driver = ScriptedDriver(schedule, Script())
    driver.prepare("u", SPEC, Ear(schedule))
    labels = driver.labels._replace(ledger="another")
    with pytest.raises(DriverError, match="not this call's"):
        ScriptedDriver(schedule, Script(), driver.containers, labels).prepare("u", SPEC, Ear(schedule))
