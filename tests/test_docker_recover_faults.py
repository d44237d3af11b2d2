"""Taking containers over from an engine that lies, hangs and goes away: what is not known is said not to be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from contract import FAILS, STAYS, SUCCEEDS, TALKS, Container, Stage, docker
from engine_http import drop, hang, says
from scripted_engine import Engine

from driver.docker import container as container_module
from driver.docker import engine as requests_of
from driver.docker import output
from driver.protocol import STDOUT, Died, OutputEnded, Unwatched
from machine.errors import DriverError, UnknownOutcomeError
from machine.states import Reason


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A scripted one, and a driver that is soon out of patience."""
    monkeypatch.setattr(output, "_PAUSES", (0.05, 0.05))
    monkeypatch.setattr(container_module, "_LOOKS", (0, 0, 0))
    with Engine() as engine:
        monkeypatch.setitem(os.environ, "DOCKER_HOST", engine.url)
        yield engine


@pytest.fixture
def stage(engine: Engine) -> Iterator[Stage]:
    """Its containers."""
    with docker() as stage:
        yield stage
        engine.honest()


def running(stage: Stage, command: tuple[str, ...] = STAYS) -> Container:
    container = stage.prepare(command)
    container.start()
    return container


def test_a_memory_that_cannot_be_asked_is_a_gap(stage: Stage, engine: Engine) -> None:
    """From the last recorded event on; the container is taken over all the same."""
    container, ear = running(stage), stage.ear()
    found = stage.successor().found(STAYS, ear)
    engine.lie("GET", "/events$", drop, first=2)  # after the subscription
    assert found.rejoin() is True
    gap = ear.until(Unwatched)
    assert gap.since < gap.at - 59 * 10**9
    found.signal("KILL")
    assert ear.until(Died).exit_code == 137
    container.remove()


@pytest.mark.parametrize("act", [drop, says(500)])
def test_an_engine_that_does_not_tell_is_not_one_without_the_container(
    stage: Stage,
    engine: Engine,
    act: object,
) -> None:
    """It cannot be told: an error, not None."""
    container = running(stage)
    engine.lie("GET", "/json$", act)  # type: ignore[arg-type]
    with pytest.raises(DriverError):
        stage.recover(STAYS)
    assert stage.recover(STAYS) is not None
    container.remove()


def test_an_inspect_that_hangs_ends_soon(stage: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sooner than other requests: a conductor waits for it. So does a signal, and the engine's memory."""
    container = running(stage)
    with monkeypatch.context() as impatient:
        impatient.setattr(requests_of, "_PROMPT", 0.1)
        for method, path, act in (
            ("GET", "/json$", container.inspect),
            ("POST", "/kill$", lambda: container.signal("KILL")),
        ):
            engine.lie(method, path, hang)
            with pytest.raises(UnknownOutcomeError):
                act()
    assert container.inspect().status == "running"
    container.remove()


def test_output_whose_end_cannot_be_read(stage: Stage, engine: Engine) -> None:
    """The log breaks off, and the engine is gone: what came is kept, that more may be missing is said."""
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(TALKS, first)
    container.start()
    first.until_said(STDOUT, b"first\n")
    found = stage.successor().found(TALKS, ear)
    found.rejoin()
    ear.until_said(STDOUT, b"first\n")
    engine.kill9()
    ear.until(OutputEnded)
    assert any("may be missing" in fact.why for fact in ear.facts if isinstance(fact, Unwatched))
    assert ear.said[STDOUT] == b"first\n"
    engine.come_back()
    container.remove()


def test_output_of_an_ended_call_that_breaks_off(stage: Stage, engine: Engine) -> None:
    """The answer stops half way."""
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(FAILS, first)
    container.start()
    first.until(Died)
    found = stage.successor().found(FAILS, ear)
    engine.lie("GET", "/logs$", drop)
    with pytest.raises(UnknownOutcomeError):
        found.rejoin()
    assert found.rejoin() is True
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"hello"
    container.remove()


def test_a_start_without_an_answer_from_an_engine_that_is_gone(stage: Stage, engine: Engine) -> None:
    """Nobody knows whether it began: it is not said that it never did."""
    container = stage.prepare(SUCCEEDS)
    engine.lie("POST", "/start$", drop, done=True)
    engine.lie("GET", "/json$", drop, times=None)
    with pytest.raises(UnknownOutcomeError) as unknown:
        container.start()
    assert unknown.value.reason is Reason.LOST
    engine.honest()
    assert container.inspect().started_at is not None
    container.remove()


def test_a_start_without_an_answer_that_is_refused_a_look(stage: Stage, engine: Engine) -> None:
    """That is no answer either."""
    container = stage.prepare(SUCCEEDS)
    engine.lie("POST", "/start$", drop, done=True)
    engine.lie("GET", "/json$", says(500), times=None)
    with pytest.raises(UnknownOutcomeError):
        container.start()
    engine.honest()
    container.remove()


@pytest.mark.parametrize("done", [True, False])
def test_a_discard_without_an_answer(stage: Stage, engine: Engine, done: bool) -> None:  # noqa: FBT001
    """It may or may not be gone; whoever asks again is told no lie."""
    container = stage.prepare(STAYS)
    engine.lie("DELETE", "/containers/", drop, done=done)
    with pytest.raises(UnknownOutcomeError):
        container.discard()
    assert container.discard() is not done
    assert container.inspect().status == "gone"


def test_leftovers_that_cannot_be_listed(stage: Stage, engine: Engine) -> None:
    """An error, not an empty list."""
    container = running(stage)
    engine.lie("GET", "/containers/json$", says(500))
    with pytest.raises(DriverError):
        stage.driver.leftovers()
    assert len(stage.driver.leftovers()) == 1
    container.remove()


def test_a_leftover_that_cannot_be_removed(stage: Stage, engine: Engine) -> None:
    """Said so; it is still there."""
    container = running(stage)
    (left,) = stage.driver.leftovers()
    engine.lie("DELETE", "/containers/", says(500))
    with pytest.raises(DriverError):
        stage.driver.reap(left)
    assert stage.driver.leftovers() == [left]
    container.remove()
