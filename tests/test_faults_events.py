"""Rows 26, 27 and 30 of the fault matrix: what becomes of the news on its way, and of the clock it is dated by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from faults import WAITS, SteppingClock, Told, World, world
from held import Ahead
from running import until
from scripted_engine import Event

from driver.protocol import LABEL
from machine.units import SECOND

LIFE = "echo up; while [ ! -e {0}/go ]; do sleep 0.02; done; echo over; exit 3"
Pass = Callable[[Event], list[Event]]


@pytest.fixture
def stage(ledger: Path) -> Iterator[World]:
    """A runner on a scripted engine."""
    with world(ledger) as stage:
        yield stage


def live(stage: World, place: Path, disturb: Callable[[], Any] = lambda: None) -> Told:
    """A call that is paused, goes on, and ends; `disturb` comes after the pause."""
    (place / "go").unlink(missing_ok=True)
    future = stage.script(LIFE.format(place))
    client = stage.client()
    client.pause(future.id)
    until(lambda: stage.kinds(future)[-1] in ("paused", "gap"), "the pause, or the end of its news")
    disturb()
    client.unpause(future.id)
    client.close()
    (place / "go").touch()
    return stage.end(future)


def flood(stage: World, count: int) -> None:
    """Events of our own label, all at once."""
    stage.engine.flood({f"{LABEL}runner": stage.runner.id}, count)


def test_row_26_ten_thousand_events_in_a_second_cost_no_call_its_verdict(stage: World) -> None:
    futures = [stage.script(f"echo up; sleep 0.5; exit {number % 3}") for number in range(12)]
    for _ in range(10):
        flood(stage, 1000)
    for number, future in enumerate(futures):
        told = stage.end(future)
        assert told.verdict[2] == number % 3
        # What the engine dropped without a word was found by looking, and is counted.
        assert told.evidence["exits"].keys() == ({"inspect"} if told.gaps("events") else {"die", "inspect"})


def test_row_26_an_end_that_a_burst_drowned_is_found_and_counted(stage: World) -> None:
    stage.engine.events_pass = lambda event: [] if event["Action"] == "die" else [event]
    told = stage.end(stage.script("echo up; sleep 0.3; exit 5"))
    assert told.verdict == ("error", "exit", 5, None)
    assert [gap["lost"] for gap in told.gaps("events")] == [1]


def twice(event: Event) -> list[Event]:
    """Each event comes twice."""
    return [event, event]


class Echo:
    """All that came before comes again with each event."""

    def __init__(self) -> None:
        self.past: list[Event] = []

    def __call__(self, event: Event) -> list[Event]:
        self.past.append(event)
        return [event, *self.past]


class Swap:
    """Signals and ends change places, two by two."""

    def __init__(self) -> None:
        self.held: list[Event] = []

    def __call__(self, event: Event) -> list[Event]:
        if event["Action"] in ("start", "pause", "unpause", "create"):
            return [event]
        self.held.append(event)
        if len(self.held) == 1:
            return []
        passed, self.held = self.held[::-1], []
        return passed


@pytest.mark.parametrize("tamper", [twice, Echo()])
def test_row_27_duplicated_events_change_nothing(stage: World, tmp_path: Path, tamper: Pass) -> None:
    clean = live(stage, tmp_path)
    stage.engine.events_pass = tamper
    told = live(stage, tmp_path)
    assert (told.verdict, told.kinds()) == (clean.verdict, clean.kinds())
    assert clean.kinds()[2:-2] == ["started", "paused", "resumed"]
    assert not told.gaps("events")


def test_row_27_our_own_signals_told_twice_are_nobody_elses(stage: World) -> None:
    stage.engine.events_pass = Echo()
    future = stage.script(WAITS)
    stage.runner.kill(future.id, "USR1")
    stage.until(future, "signalled")
    stage.runner.cancel(future.id)
    told = stage.end(future)
    assert told.verdict == ("cancelled", "user", 0, None)
    assert "external_signal" not in told.evidence


def test_row_27_reordered_events_change_nothing(stage: World) -> None:
    def killed() -> Told:
        future = stage.script(WAITS)
        client = stage.client()
        client.kill(future.id)
        client.close()
        return stage.end(future)

    clean = killed()
    stage.engine.events_pass = Swap()  # the end comes before the signal
    told = killed()
    assert (told.verdict, told.kinds()) == (clean.verdict, clean.kinds())
    assert told.verdict == ("killed", "external", 137, "KILL")


def test_row_27_a_cut_stream_is_a_gap_and_what_came_in_it_is_heard_afterwards(stage: World, tmp_path: Path) -> None:
    clean = live(stage, tmp_path)
    told = live(stage, tmp_path, stage.engine.cut_events)
    assert (told.verdict, told.kinds()) == (clean.verdict, clean.kinds())
    assert [gap["why"] for gap in told.gaps("events")] == [
        "the engine closed the event stream",
        "subscribed to events again",
    ]


def test_row_27_what_the_ring_has_forgotten_is_found_by_looking(stage: World, tmp_path: Path) -> None:
    def disturb() -> None:
        stage.engine.lie("GET", "/events", _refuse, times=None)
        stage.engine.cut_events()

    clean = live(stage, tmp_path)
    (tmp_path / "go").unlink()
    future = stage.script(LIFE.format(tmp_path))
    disturb()
    (tmp_path / "go").touch()
    until(lambda: not stage.box(future).running, "its end")
    flood(stage, 300)  # more than the engine remembers
    stage.engine.honest()
    told = stage.end(future)
    assert told.verdict == clean.verdict
    assert told.gaps("events")
    assert told.evidence["exits"] == {"inspect": 3}


async def _refuse(_: object) -> None:
    raise ConnectionResetError


@pytest.mark.parametrize("line", [b"{\n", b'{"Action": "die"}\n', b"[1]\n", b"null\n", b"[" * 100_000 + b"\n"])
def test_row_27_a_malformed_event_is_a_gap(stage: World, monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    whole, spoilt = stage.engine.wire, []

    def wire(event: Event) -> bytes:
        if event["Action"] == "die" and not spoilt:
            spoilt.append(event)
            return line
        return whole(event)

    monkeypatch.setattr(stage.engine, "wire", wire)
    told = stage.end(stage.script("echo up; sleep 0.3; exit 5"))
    assert told.verdict == ("error", "exit", 5, None)
    assert told.gaps("events")


@pytest.mark.parametrize("hours", [1, -1])
def test_row_30_a_wall_clock_that_is_set_moves_no_deadline_and_is_noted(ledger: Path, hours: int) -> None:
    clock = SteppingClock(inner := Ahead())
    with world(ledger, clock=clock) as stage:
        future = stage.script(WAITS, timeout="10s", stop_timeout="24h")
        clock.ahead = hours * 3600
        until(lambda: (inner.skip(SECOND), "signalled" in stage.kinds(future))[1], "the deadline")
        told = stage.end(future)
        assert told.verdict == ("timeout", "deadline", 0, None)
        (gap,) = told.gaps("clock")
        assert gap["why"] == f"the wall clock was set {'ahead' if hours > 0 else 'back'} by 3600.0 s"
        assert gap["until"] - gap["since"] == pytest.approx(3600 * SECOND, rel=0.01)
        rows = stage.query("SELECT seq, at, elapsed_ns FROM event ORDER BY id")
        assert [seq for seq, *_ in rows] == [*range(1, len(rows) + 1)], "the order is that of seq"
        jumps = [abs(after - before) for (_, before, _), (_, after, _) in pairwise(rows)]
        assert max(jumps) == pytest.approx(3600 * SECOND, rel=0.01), "what the wall clock said is kept"
        (running,) = stage.query("SELECT running_ns FROM call")[0]
        assert 10 * SECOND <= running < 600 * SECOND, "durations are those of the monotonic clock"


def test_row_30_a_clock_that_runs_is_no_news(stage: World) -> None:
    assert not stage.run("true").gaps("clock")
