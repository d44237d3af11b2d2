"""The scripted driver, and its containers as it holds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from driver import protocol as facts
from driver.protocol import (
    Beginning,
    Execution,
    Labels,
    Leftover,
    Observation,
    Preparation,
    Process,
    Sampling,
    Sink,
    Trace,
    Watcher,
)
from driver.scripted.process import ScriptedProcess
from driver.scripted.schedule import Schedule
from driver.scripted.script import Script
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample, with_rates
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND, duration

LABELS = Labels(ledger="scripted-ledger", runner="scripted-runner")


class ScriptedDriver:
    """Containers that follow a script. They outlive the driver: another one, given its `containers`, has them too."""

    takes_image = True

    def __init__(
        self,
        schedule: Schedule,
        script: Callable[[str, Spec], Script] | Script,
        containers: dict[str, ScriptedContainer] | None = None,
        labels: Labels = LABELS,
        name: str = "scripted",
    ) -> None:
        """One script for all calls, or a function from a call's uid and spec to its script.

        Named `docker` it stands in for that one: programs need not say which driver they want.
        """
        self.name = name
        self.schedule = schedule
        self.containers = {} if containers is None else containers  # by uid, as held by whoever came last
        self.actions: list[str] = []  # asked of all containers: `prepare`, `start`, `signal TERM`, `remove`
        self.away = False  # set it, and nothing is heard and every request refused: a dead runner, a dead engine
        self.labels = labels
        self._script = script
        self._held: list[ScriptedContainer] = []

    def check(self, spec: Spec) -> None:
        """Everything can be asked for."""

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> ScriptedContainer:
        """Follow the script; a container that this call has already is given again, with the new watcher."""
        self.ask("prepare")
        if (found := self._find(uid)) is not None:
            if found.process.labels.ledger != self.labels.ledger:
                raise DriverError(Reason.CREATE_REFUSED, f"a container named {uid} exists and is not this call's")
            if found not in self._held:
                found = self._hold(uid, ScriptedContainer(self, found.process, watcher))
            found.connect(watcher)
            return found
        script = self._script(uid, spec) if callable(self._script) else self._script
        if script.pulls:
            self._pull(spec.image or "", script.pulls, watcher)
        if script.refuse_prepare is not None:
            raise script.refuse_prepare
        stop_signal = spec.stop_signal or script.stop_signal
        made = Preparation(f"scripted:{uid}", stop_signal=stop_signal, health=script.health)
        process = ScriptedProcess(self.schedule, script, made, self.labels, {**script.environment, **spec.env})
        container = self._hold(uid, ScriptedContainer(self, process, watcher))
        container.connect(watcher)
        return container

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> ScriptedContainer | None:
        """The container of this call, whichever driver made it; nothing is heard of it before `rejoin`."""
        self.ask("recover")
        found = self._find(uid)
        if found is None or found.process.labels.ledger != self.labels.ledger:
            return None
        return self._hold(uid, ScriptedContainer(self, found.process, watcher, trace.since))

    def leftovers(self) -> list[Leftover]:
        """The containers of this ledger that are not gone."""
        self.ask()
        return [
            Leftover(
                uid, process.labels.runner, process.preparation.container, process.state.status, process.created_at
            )
            for uid, container in self.containers.items()
            if (process := container.process).state.status != "gone" and process.labels.ledger == self.labels.ledger
        ]

    def reap(self, leftover: Leftover) -> None:
        """It is gone, running or not."""
        self.ask(f"reap {leftover.uid}")
        if (found := self._find(leftover.uid)) is not None:
            found.process.vanish()

    def forget(self, uid: str) -> None:
        """Nothing is left of what is gone."""

    def _find(self, uid: str) -> ScriptedContainer | None:
        found = self.containers.get(uid)
        return found if found is not None and found.process.state.status != "gone" else None

    def _hold(self, uid: str, container: ScriptedContainer) -> ScriptedContainer:
        self.containers[uid] = container
        self._held.append(container)
        return container

    def _pull(self, image: str, seconds: float, watcher: Watcher) -> None:
        end = self.schedule.monotonic() + duration(seconds)
        while (left := end - self.schedule.monotonic()) > 0:
            self.schedule.advance(min(left, SECOND))
            if watcher.given_up():
                raise DriverError(Reason.PULL_FAILED, f"given up pulling {image}")
        watcher.pulled(image, seconds, None)

    def ask(self, what: str | None = None) -> None:
        """Note what was asked for; DriverError while nobody is there."""
        if self.away:
            raise DriverError(Reason.ENGINE_UNAVAILABLE, "nobody answers")
        if what is not None:
            self.actions.append(what)

    def describe(self) -> dict[str, Any]:
        """For `calls doctor`."""
        return {"driver": self.name, "isolation": "none", "samples": "scripted", "totals": True}

    def close(self) -> None:
        """Let go of all containers. Idempotent."""
        for container in self._held:
            container.close()


class ScriptedContainer:
    """See `driver.protocol.Container`. `write` and `happen` are what steps do; a test may do it by hand."""

    def __init__(self, driver: ScriptedDriver, process: ScriptedProcess, ear: Watcher, since: int = 0) -> None:
        """Made by `ScriptedDriver.prepare` and `recover`. `ear` hears nothing yet."""
        self.process = process
        process.latest = self
        self.watcher: Watcher | None = None  # None: nothing is reported
        self.write = process.write
        self.happen = process.happen
        self._driver = driver
        self._ear: Watcher | None = ear
        self._since = since
        self._whole = True
        self._sampling = 0  # counts the observations and their ends: a beat of an older one does nothing

    @property
    def preparation(self) -> Preparation:
        """What was prepared."""
        return self.process.preparation

    @property
    def starts(self) -> int:
        """How often the process began, whoever started it."""
        return self.process.starts

    def connect(self, watcher: Watcher) -> None:
        """Report to `watcher` from now on."""
        self.watcher = watcher
        if self not in self.process.holders:
            self.process.holders.append(self)

    def hear(self, fact: facts.Fact) -> None:
        """Report a fact."""
        if self.watcher and not self._driver.away:
            self.watcher.fact(fact)

    def hear_output(self, stream: int, data: bytes) -> None:
        """Report output."""
        if self.watcher and not self._driver.away:
            self.watcher.output(stream, data)

    def start(self) -> Beginning:
        """Begin the steps, once; again: the same Beginning."""
        self._ask("start", self.process.script.refuse_start)
        if self.process.state.status == "gone":
            raise DriverError(Reason.START_REFUSED, "removed before it was started")
        if self.process.state.started_at is None:
            self.process.begin()
            if self.process.script.start_unanswered:
                raise UnknownOutcomeError(Reason.LOST, "no answer to the start")
        return Beginning(self.process.state.started_at)

    def rejoin(self) -> bool:
        """Report the past, and then what comes; again: the same answer."""
        self._ask("rejoin")
        if self.watcher is None and self._ear is not None:
            self.watcher, self._ear = self._ear, None
            self._whole = self.process.retell(self, self._since)
        return self._whole

    def discard(self) -> bool:
        """It is gone, unless it was ever started."""
        self._ask("discard")
        if self.process.starts:
            return False
        self.process.vanish(by=self)
        return True

    def environment(self) -> dict[str, str]:
        """What the script says, and what the spec set when it was made."""
        self._ask()
        return self.process.environment

    def signal(self, name: str) -> bool:
        """Send a signal: it is answered as the script says. False when nothing runs."""
        name = signal_name(signal_number(name))
        self._ask(f"signal {name}", self.process.script.refuse_signal)
        return self.process.take(name, self)

    def pause(self) -> bool:
        """It is frozen, as far as anybody can see; its steps go on."""
        return self._turn("pause", "paused", facts.Froze)

    def resume(self) -> bool:
        """It goes on."""
        return self._turn("resume", "running", facts.Thawed)

    def _turn(self, what: str, wanted: str, kind: type[facts.Froze | facts.Thawed]) -> bool:
        self._ask(what, self.process.script.refuse_pause)
        if self.process.lives and self.process.state.status != wanted:
            self.process.happen(kind)
        return self.process.lives

    def processes(self) -> list[Process]:
        """One, while it lives."""
        self._ask()
        return [Process(1, None, "root", None, "scripted")] if self.process.lives else []

    def execute(self, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
        """What the script says that the command writes, and its exit code."""
        self._ask(f"execute {' '.join(wanted.command)}")
        if not self.process.lives:
            raise DriverError(Reason.START_REFUSED, "it does not run")
        said, code = self.process.script.executes.get(wanted.command, (b"", 127))
        output(facts.STDOUT, said)
        return code

    def resize(self, rows: int, columns: int) -> None:
        """Noted among the actions, while it lives."""
        if self.process.lives:
            self._ask(f"resize {rows}x{columns}")

    def inspect(self) -> Observation:
        """The truth, reported or not."""
        self._ask()
        return Observation("gone") if self.process.state.status == "gone" else self.process.state

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """Give the script's samples, one now and one every `interval`, while it runs."""
        del sampling  # it goes by real time
        self._sampling = number = self._sampling + 1
        samples = self.process.script.samples
        for count, (sample, before) in enumerate(zip(samples, (None, *samples), strict=False)):
            beat = partial(self._beat, number, sink, with_rates(sample, interval, before, 0))
            self._driver.schedule.at(count * interval, beat)
        return interval if samples else None

    def _beat(self, number: int, sink: Sink, sample: Sample) -> None:
        if self.process.lives and number == self._sampling and not self._driver.away:
            sink(self._driver.schedule.wall(), sample)

    def totals(self) -> Sample | None:
        """End sampling; the script's totals."""
        self._sampling += 1
        return self.process.script.totals

    def remove(self) -> None:
        """It is gone, running or not, and nothing is reported of it."""
        self._ask("remove", self.process.script.refuse_remove)
        self.process.vanish(by=self)
        self.close()

    def close(self) -> None:
        """Report nothing from now on."""
        self._sampling += 1
        self.watcher = self._ear = None
        if self in self.process.holders:
            self.process.holders.remove(self)

    def _ask(self, what: str | None = None, refusal: DriverError | None = None) -> None:
        self._driver.ask(what)
        if refusal is not None:
            raise refusal
