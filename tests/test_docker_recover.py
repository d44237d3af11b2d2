"""Taking containers of a real engine over: what its log and its memory give back, and what they do not."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import docker as library
import pytest
from contract import FAILS, LIMIT, STAYS, SUCCEEDS, Stage, docker
from processes import known
from running import let_pause_settle

from driver.docker.container import DockerContainer
from driver.protocol import (
    STDOUT,
    Container,
    Died,
    ForeignSignal,
    Froze,
    Observation,
    OomKilled,
    OutputEnded,
    Thawed,
    Trace,
)
from driver.sampler import Sampler
from machine.samples import Sample
from machine.units import SECOND

pytestmark = pytest.mark.engine

MIB = 2**20
LINE = b"0123456789abcdef0123456789abcde\n"


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Containers of the engine."""
    with docker() as stage:
        yield stage


def shell(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


def started(stage: Stage, command: tuple[str, ...], uid: str = "the-call") -> Container:
    """A container whose runner has let go of it."""
    container = stage.prepare(command, uid=uid)
    container.start()
    container.close()
    return container


@pytest.mark.parametrize("ended", [True, False])
def test_much_output_comes_whole(stage: Stage, ended: bool) -> None:  # noqa: FBT001
    """To its last byte, which ends no line; once it has ended, and while it is still written."""
    command = shell(f"yes {LINE.decode().strip()} | head -c {MIB}; printf last")
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(command, first)
    container.start()
    if ended:
        first.until(Died)
    found = stage.successor().found(command, ear)
    assert found.rejoin() is True
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == LINE * (MIB // len(LINE)) + b"last"
    container.remove()


def test_the_last_bytes_come_even_if_they_end_no_line(stage: Stage) -> None:
    """The engine's own following of its log loses them more often than not."""
    command = shell("echo a; sleep 0.1; echo b; printf c; printf d >&2")
    successor = stage.successor()
    for number in range(6):
        ear = stage.ear()
        container = started(stage, command, f"call-{number}")
        successor.found(command, ear, f"call-{number}").rejoin()
        ear.until(OutputEnded)
        assert ear.said == {1: b"a\nb\nc", 2: b"d"}
        container.remove()


def test_bytes_that_are_no_text_come_back_changed(stage: Stage) -> None:
    """The documented limit of the log driver json-file: each is U+FFFD."""
    command = shell(r"printf 'a\377b\n'")
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(command, first)
    container.start()
    first.until(OutputEnded)
    first.until(Died)
    stage.successor().found(command, ear).rejoin()
    ear.until(OutputEnded)
    assert (first.said[STDOUT], ear.said[STDOUT]) == (b"a\xffb\n", "a\N{REPLACEMENT CHARACTER}b\n".encode())
    container.remove()


def by_hand(stage: Stage, engine: library.APIClient, command: tuple[str, ...], **host: Any) -> str:
    """A container as ours, with options that a call cannot have; -> its id."""
    config = engine.create_container_config(
        "busybox",
        list(command),
        labels=stage.labels.of(f"{stage.prefix}the-call"),
        host_config=engine.create_host_config(network_mode="none", **host),
    )
    return str(engine.create_container_from_config(config, name=f"{stage.prefix}the-call")["Id"])


@pytest.mark.parametrize("ended", [True, False])
def test_a_log_that_cannot_be_read(stage: Stage, engine: library.APIClient, ended: bool) -> None:  # noqa: FBT001
    """It is said so. What comes from now on comes, and the end comes in any case."""
    number = by_hand(stage, engine, STAYS, log_config=library.types.LogConfig(type="none"))
    engine.start(number)
    ear = stage.ear()
    found = stage.found(STAYS, ear)
    if ended:
        engine.kill(number)
        engine.wait(number)
    assert found.rejoin() is False
    found.signal("KILL")
    ear.until(OutputEnded)
    assert found.inspect().exit_code == 137
    found.remove()


def test_a_namesake_is_not_ours(stage: Stage, engine: library.APIClient) -> None:
    """It has the name, and not the labels."""
    name = f"{stage.prefix}the-call"
    number = engine.create_container("busybox", list(STAYS), name=name)["Id"]
    assert stage.recover(STAYS) is None
    engine.remove_container(number)


def test_a_renamed_container_is_found_by_its_record(stage: Stage, engine: library.APIClient) -> None:
    container = stage.prepare(STAYS)
    number = container.preparation.container
    engine.rename(number, f"{stage.prefix}renamed")
    assert stage.recover(STAYS) is None
    assert stage.recover(STAYS, trace=Trace(stage.clock.wall(), number)) is not None
    container.remove()


def test_what_was_done_to_it_meanwhile_is_reported(stage: Stage, engine: library.APIClient) -> None:
    """By whomever, in its order, and before what comes."""
    container = started(stage, shell("trap : TERM; while :; do sleep 0.05; done"))
    number, since = container.preparation.container, stage.clock.wall()
    engine.pause(number)
    let_pause_settle()
    engine.unpause(number)
    engine.kill(number, "TERM")
    ear = stage.ear()
    found = stage.successor().recover(STAYS, ear, trace=Trace(since, number))
    assert found is not None
    found.rejoin()
    engine.kill(number, "KILL")
    assert ear.until(Died).exit_code == 137
    assert [fact[1:3] if isinstance(fact, ForeignSignal) else type(fact) for fact in ear.facts if fact.at > since] == [
        *(Froze, Thawed, ("TERM", False), ("KILL", False)),
        *[type(fact) for fact in ear.facts if isinstance(fact, OutputEnded)],
        Died,
    ]
    found.remove()


def test_an_end_for_memory_meanwhile_is_reported(stage: Stage) -> None:
    large = stage._replace(options={**stage.options, "memory": "16m"})
    command = shell("sleep 0.2; tail /dev/zero")
    for number in range(20):  # of some of these ends the engine itself does not hear that they were for memory
        uid, first, since = f"call-{number}", stage.ear(), stage.clock.wall()
        container = large.prepare(command, first, uid)
        container.start()
        first.until(Died)
        if container.inspect().oom_killed:
            break
        container.remove()
    container.close()
    ear = stage.ear()
    found = large.successor().recover(command, ear, uid, trace=Trace(since))
    assert found is not None
    found.rejoin()
    ear.until(OomKilled)
    assert ear.until(Died).exit_code == 137
    assert found.inspect().oom_killed
    found.remove()


def pretend_created(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was seen a moment before somebody else's start was carried out."""
    assert isinstance(container, DockerContainer)
    monkeypatch.setattr(container, "inspect", lambda: Observation("created"))


def test_what_starts_in_that_very_moment_is_not_discarded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs already when it is to be removed: it is left alone."""
    container = started(stage, STAYS)
    found = stage.successor().found(STAYS)
    pretend_created(found, monkeypatch)
    assert found.discard() is False
    assert container.inspect().status == "running"
    container.remove()


def test_what_ran_in_that_very_moment_is_not_said_to_have_not(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has run and ended, and is removed: the engine's memory knows better."""
    ear = stage.ear()
    container = stage.prepare(SUCCEEDS, ear)
    container.start()
    ear.until(Died)
    found = stage.successor().found(SUCCEEDS)
    pretend_created(found, monkeypatch)
    assert found.discard() is False
    assert container.inspect().status == "gone"
    container.remove()


def test_a_recovered_container_is_sampled_and_accounted_for(stage: Stage) -> None:
    """By the group that its first runner gave it, which goes with it."""
    command = shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 600")
    started(stage, command)
    ear, sampler, samples = stage.ear(), Sampler(), queue.SimpleQueue[Sample]()
    found = stage.successor().found(command, ear)
    found.rejoin()
    found.observe(sampler, SECOND // 10, lambda _, sample: samples.put(sample))
    first, second = (samples.get(timeout=LIMIT / SECOND) for _ in range(2))
    found.signal("KILL")
    ear.until(Died)
    totals = found.totals()
    sampler.close()
    assert known(second.cpu_total_ns) >= known(first.cpu_total_ns) > 0
    assert found.preparation.cgroup_parent is None or known((totals or Sample()).cpu_total_ns) > 0
    found.remove()


def test_an_attachment_that_broke_goes_on_where_it_was(stage: Stage) -> None:
    """As after a restart of an engine that leaves its containers running: nothing comes twice."""
    command = shell("trap 'echo two; exit' TERM; echo one; while :; do sleep 0.05; done")
    ear = stage.ear()
    container = stage.prepare(command, ear)
    container.start()
    ear.until_said(STDOUT, b"one\n")
    assert isinstance(container, DockerContainer)
    container._output._attachment._socket.shutdown(2)  # type: ignore[union-attr]
    ear.until(OutputEnded)
    ear.facts.clear()
    assert container.rejoin() is True
    container.signal("TERM")
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"one\ntwo\n"
    container.remove()


def test_a_log_that_breaks_off_is_read_on(stage: Stage) -> None:
    """By itself: its end is not taken for that of the output."""
    command = shell("trap 'echo two; exit' TERM; echo one; while :; do sleep 0.05; done")
    started(stage, command)
    ear = stage.ear()
    found = stage.successor().found(command, ear)
    found.rejoin()
    ear.until_said(STDOUT, b"one\n")
    assert isinstance(found, DockerContainer)
    found._output._attachment._socket.shutdown(2)  # type: ignore[union-attr]
    found.signal("TERM")
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"one\ntwo\n"
    ear.until(Died)
    found.remove()


def test_a_call_that_ended_is_not_waited_for(stage: Stage) -> None:
    """Its output is read from the log, to its end, although nobody writes it any more."""
    first, ear = stage.ear(), stage.ear()
    container = stage.prepare(FAILS, first)
    container.start()
    first.until(Died)
    found = stage.successor().found(FAILS, ear)
    assert found.rejoin() is True
    ear.until(OutputEnded)
    assert ear.said == {1: b"hello", 2: b"oops"}
    assert found.signal("KILL") is False
    found.remove()
