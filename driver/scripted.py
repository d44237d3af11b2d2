"""A driver whose containers do what a script says, on a clock that stands still between two events.

For tests of programs that carry out calls: no engine, no threads, nothing really waits. A `Script` says
what happens to a container and when; a `Schedule` lets time pass, and it happen, in its `get`.

>>> schedule, heard = Schedule(), queue.SimpleQueue()
>>> schedule.at(3 * SECOND, lambda: heard.put("three seconds later"))
>>> schedule.get(heard, timeout_ns=None)
'three seconds later'
>>> schedule.monotonic()
3000000000
>>> driver = ScriptedDriver(schedule, Script([writes(b"hello"), exits(3, after=2.5)]))
"""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from driver import protocol as facts
from driver.protocol import Beginning, HealthCheck, Observation, Preparation, Sampling, Sink, Watcher
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample, with_rates
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND, duration

Item = TypeVar("Item")


class Schedule:
    """A virtual clock: see `calls.clock.Clock`. Time passes in `get` and `advance` and nowhere else."""

    def __init__(self, wall: int = 1_700_000_000 * SECOND) -> None:
        """`wall` is the time of day at the beginning (ns, UTC); the monotonic clock begins at 0."""
        self._begun = wall
        self._elapsed = 0
        self._order = itertools.count()
        self._due: list[tuple[int, int, Callable[[], object]]] = []

    def wall(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        return self._begun + self._elapsed

    def monotonic(self) -> int:
        """Nanoseconds since the schedule began."""
        return self._elapsed

    def at(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Do `action` in `delay_ns` from now, never before; at the same instant, in the order of asking."""
        heapq.heappush(self._due, (self._elapsed + max(0, delay_ns), next(self._order), action))

    def get(self, items: queue.SimpleQueue[Item], timeout_ns: int | None) -> Item:
        """The next item, letting time pass from one action to the next until there is one.

        queue.Empty, `timeout_ns` later, when there is none; what is due at that very instant still counts.
        RuntimeError when nothing is scheduled and no timeout would ever end the wait.
        """
        limit = None if timeout_ns is None else self._elapsed + max(0, timeout_ns)
        while True:
            with suppress(queue.Empty):
                return items.get_nowait()
            if self._due and (limit is None or self._due[0][0] <= limit):
                self._elapsed, _, action = heapq.heappop(self._due)
                action()
            elif limit is None:
                raise RuntimeError("nothing more is scheduled: the script would wait for ever")
            else:
                self._elapsed = limit
                raise queue.Empty

    def advance(self, span_ns: int) -> None:
        """Let `span_ns` go by, doing what is due."""
        with suppress(queue.Empty):
            self.get(queue.SimpleQueue[None](), span_ns)


class Step(NamedTuple):
    """What happens to a container, `after` ns from its start or, as an answer, from the signal."""

    after: int
    play: Callable[[ScriptedContainer], object]


def writes(data: bytes, stream: int = facts.STDOUT, *, after: float = 0) -> Step:
    """The process writes."""
    return Step(duration(after), lambda container: container.write(stream, data))


def exits(code: int, *, after: float = 0, seen: bool = True) -> Step:
    """The process ends by itself. `seen`: see `happens`."""
    return happens(facts.Died, code, "die", after=after, seen=seen)


def happens(kind: Callable[..., facts.Fact], *details: Any, after: float = 0, seen: bool = True) -> Step:
    """Any fact of `driver.protocol`: `happens(Died, 137, "wait4", 9, after=2)`; `details` follow its time.

    Not `seen`: it is not reported, and only `inspect` knows. A ForeignSignal is answered like one of ours.
    """
    return Step(duration(after), lambda container: container.happen(kind, *details, seen=seen))


class Script(NamedTuple):
    """What one container does. Durations in seconds.

    `steps` in any order; what a process does ends with it. `on_signal`: how it answers a signal (`TERM`),
    None to ignore it; any other ends it at once with 128 + its number. Not `output_ends`: something holds
    the output open. `pulls`: how long fetching the image takes. `stop_signal`: the image's. `samples`: one
    each interval. `refuse_…`: raised, nothing is done. `start_unanswered`: it starts and nobody says so.
    """

    steps: Sequence[Step] = ()
    on_signal: Mapping[str, Step | None] = MappingProxyType({})
    output_ends: bool = True
    pulls: float = 0
    stop_signal: str = "TERM"
    health: HealthCheck | None = None
    health_output: str | None = None
    samples: Sequence[Sample] = ()
    totals: Sample | None = None
    refuse_prepare: DriverError | None = None
    refuse_start: DriverError | None = None
    refuse_signal: DriverError | None = None
    refuse_remove: DriverError | None = None
    start_unanswered: bool = False


# What `inspect` sees of a fact; the others leave no trace there.
_EFFECTS: dict[type[facts.Fact], Callable[[Any], dict[str, Any]]] = {
    facts.Died: lambda fact: {"status": "exited", "exit_code": fact.exit_code, "finished_at": fact.at},
    facts.Destroyed: lambda _: {"status": "gone"},
    facts.OomKilled: lambda _: {"oom_killed": True},
    facts.HealthStatus: lambda fact: {"health": fact.status},
    facts.Froze: lambda _: {"status": "paused"},
    facts.Thawed: lambda _: {"status": "running"},
}


class ScriptedDriver:
    """Containers that follow a script. They outlive `close`: another runner may adopt them."""

    name = "scripted"

    def __init__(self, schedule: Schedule, script: Callable[[str, Spec], Script] | Script) -> None:
        """One script for all calls, or a function from a call's uid and spec to its script."""
        self.schedule = schedule
        self.containers: dict[str, ScriptedContainer] = {}
        self.actions: list[str] = []  # asked of all containers: `prepare`, `start`, `signal TERM`, `remove`
        self._script = script

    def check(self, spec: Spec) -> None:
        """Everything can be asked for."""

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> ScriptedContainer:
        """Follow the script; a container that this call has already is given again, with the new watcher."""
        self.actions.append("prepare")
        if (found := self.containers.get(uid)) and found.inspect().status != "gone":
            found.watcher = watcher
            return found
        script = self._script(uid, spec) if callable(self._script) else self._script
        if script.pulls:
            self._pull(spec.image or "", script.pulls, watcher)
        if script.refuse_prepare is not None:
            raise script.refuse_prepare
        stop_signal = spec.stop_signal or script.stop_signal
        made = Preparation(f"scripted:{uid}", stop_signal=stop_signal, health=script.health)
        container = self.containers[uid] = ScriptedContainer(self, made, script, watcher)
        return container

    def _pull(self, image: str, seconds: float, watcher: Watcher) -> None:
        end = self.schedule.monotonic() + duration(seconds)
        while (left := end - self.schedule.monotonic()) > 0:
            self.schedule.advance(min(left, SECOND))
            if watcher.given_up():
                raise DriverError(Reason.PULL_FAILED, f"given up pulling {image}")
        watcher.pulled(image, seconds, None)

    def describe(self) -> dict[str, Any]:
        """For `calls doctor`."""
        return {"driver": self.name, "isolation": "none", "samples": "scripted", "totals": True}

    def close(self) -> None:
        """Let go of all containers. Idempotent."""
        for container in self.containers.values():
            container.close()


class ScriptedContainer:
    """See `driver.protocol.Container`. `write` and `happen` are what steps do; a test may do it by hand."""

    def __init__(self, driver: ScriptedDriver, made: Preparation, script: Script, watcher: Watcher) -> None:
        """Made by `ScriptedDriver.prepare`."""
        self.preparation = made
        self.watcher: Watcher | None = watcher  # None: closed
        self.starts = 0  # how often the process began
        self._actions = driver.actions
        self._schedule = driver.schedule
        self._script = script
        self._state = Observation("created", health_output=script.health_output)
        self._sampling = 0  # counts the observations and their ends: a beat of an older one does nothing

    def start(self) -> Beginning:
        """Begin the steps, once; again: the same Beginning."""
        self._ask("start", self._script.refuse_start)
        if self._state.status == "gone":
            raise DriverError(Reason.START_REFUSED, "removed before it was started")
        if self._state.started_at is None:
            self.starts += 1
            now, health = self._schedule.wall(), "starting" if self._script.health else None
            self._state = self._state._replace(status="running", started_at=now, health=health)
            for step in self._script.steps:
                self._play(step)
            if self._script.start_unanswered:
                raise UnknownOutcomeError(Reason.LOST, "no answer to the start")
        return Beginning(self._state.started_at)

    def signal(self, name: str) -> bool:
        """Send a signal: it is answered as the script says. False when nothing runs."""
        name = signal_name(signal_number(name))
        self._ask(f"signal {name}", self._script.refuse_signal)
        return self._answer(name)

    def inspect(self) -> Observation:
        """The truth, reported or not."""
        return Observation("gone") if self._state.status == "gone" else self._state

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> None:
        """Give the script's samples, one now and one every `interval`, while it runs."""
        del sampling  # it goes by real time
        self._sampling = number = self._sampling + 1
        samples = self._script.samples
        for count, (sample, before) in enumerate(zip(samples, (None, *samples), strict=False)):
            beat = partial(self._beat, number, sink, with_rates(sample, interval, before, 0))
            self._schedule.at(count * interval, beat)

    def _beat(self, number: int, sink: Sink, sample: Sample) -> None:
        if self._lives and number == self._sampling:
            sink(self._schedule.wall(), sample)

    def totals(self) -> Sample | None:
        """End sampling; the script's totals."""
        self._sampling += 1
        return self._script.totals

    def remove(self) -> None:
        """It is gone, running or not, and nothing is reported of it."""
        self._ask("remove", self._script.refuse_remove)
        self._state = Observation("gone")
        self.close()

    def close(self) -> None:
        """Report nothing from now on."""
        self._sampling += 1
        self.watcher = None

    def write(self, stream: int, data: bytes) -> None:
        """Output, if the process lives."""
        if self._lives and self.watcher:
            self.watcher.output(stream, data)

    def happen(self, kind: Callable[..., facts.Fact], *details: Any, seen: bool = True) -> None:
        """A fact, reported if it is `seen`. What only a living process can do is over with its end."""
        fact, lived = kind(self._schedule.wall(), *details), self._lives
        if not lived and isinstance(fact, facts.Died | facts.HealthStatus | facts.Froze | facts.Thawed):
            return
        self._state = self._state._replace(**_EFFECTS.get(type(fact), lambda _: {})(fact))
        if self.watcher and lived and not self._lives and self._script.output_ends:
            self.watcher.fact(facts.OutputEnded(fact.at))
        if self.watcher and seen:
            self.watcher.fact(fact)
        if isinstance(fact, facts.ForeignSignal):
            self._answer(fact.signal)

    @property
    def _lives(self) -> bool:
        return self._state.status in ("running", "paused")

    def _ask(self, what: str, refusal: DriverError | None) -> None:
        self._actions.append(what)
        if refusal is not None:
            raise refusal

    def _answer(self, name: str) -> bool:
        if not self._lives:
            return False
        if step := self._script.on_signal.get(name, exits(128 + signal_number(name))):
            self._play(step)
        return True

    def _play(self, step: Step) -> None:
        self._schedule.at(step.after, lambda: step.play(self))
