"""A container as it is: what it did, what it wrote, and who holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from driver import protocol as facts
from driver.protocol import Labels, Observation, Preparation
from driver.scripted.schedule import Schedule
from driver.scripted.script import Script, Step, exits
from machine.signals import signal_number

if TYPE_CHECKING:
    from driver.scripted.driver import ScriptedContainer

# What `inspect` sees of a fact; the others leave no trace there.
_EFFECTS: dict[type[facts.Fact], Callable[[Any], dict[str, Any]]] = {
    facts.Died: lambda fact: {"status": "exited", "exit_code": fact.exit_code, "finished_at": fact.at},
    facts.Destroyed: lambda _: {"status": "gone"},
    facts.OomKilled: lambda _: {"oom_killed": True},
    facts.HealthStatus: lambda fact: {"health": fact.status},
    facts.Froze: lambda _: {"status": "paused"},
    facts.Thawed: lambda _: {"status": "running"},
}


class ScriptedProcess:
    """What one container is, whoever holds it. It outlives the drivers; time alone moves it."""

    def __init__(
        self, schedule: Schedule, script: Script, made: Preparation, labels: Labels, environment: dict[str, str]
    ) -> None:
        """Created, not started."""
        self.schedule = schedule
        self.script = script
        self.preparation = made
        self.labels = labels
        self.environment = environment
        self.created_at = schedule.wall()
        self.starts = 0  # how often the process began
        self.state = Observation("created", health_output=script.health_output)
        self.latest: ScriptedContainer  # as held by whoever came last: what steps play on
        self.holders: list[ScriptedContainer] = []  # who hears of it
        self._written: list[tuple[int, bytes]] = []
        self._past: list[facts.Fact] = []

    @property
    def lives(self) -> bool:
        """Whether it was started and has not ended."""
        return self.state.status in ("running", "paused")

    def begin(self) -> None:
        """Start it: from now on its steps count."""
        self.starts += 1
        health = "starting" if self.script.health else None
        self.state = self.state._replace(status="running", started_at=self.schedule.wall(), health=health)
        for step in self.script.steps:
            self._play(step)

    def vanish(self, by: ScriptedContainer | None = None) -> None:
        """Somebody removes it; the others hear of that."""
        if self.state.status != "gone":
            lived, self.state = self.lives, Observation("gone")
            if lived and self.script.output_ends:
                self._report(facts.OutputEnded(self.schedule.wall()), but=by)
            self._report(facts.Destroyed(self.schedule.wall()), but=by)

    def write(self, stream: int, data: bytes) -> None:
        """Output, if it lives."""
        if self.lives:
            self._written.append((stream, data))
            for holder in self.holders:
                holder.hear_output(stream, data)

    def happen(self, kind: Callable[..., facts.Fact], *details: Any, seen: bool = True) -> None:
        """A fact, reported if it is `seen`. What only a living process can do is over with its end."""
        fact, lived = kind(self.schedule.wall(), *details), self.lives
        if not lived and isinstance(fact, facts.Died | facts.HealthStatus | facts.Froze | facts.Thawed):
            return
        self.state = self.state._replace(**_EFFECTS.get(type(fact), lambda _: {})(fact))
        if lived and not self.lives and self.script.output_ends:
            self._report(facts.OutputEnded(fact.at))
        if seen:
            self._past.append(fact)
            self._report(fact)
        if isinstance(fact, facts.ForeignSignal):
            self._answer(fact.signal)

    def take(self, signal: str, sender: ScriptedContainer) -> bool:
        """A signal by one of its holders: the others hear of it as somebody else's. False when it does not live."""
        if not self.lives:
            return False
        fact = facts.ForeignSignal(self.schedule.wall(), signal)
        self._past.append(fact)
        self._report(fact, but=sender)
        self._answer(signal)
        return True

    def retell(self, holder: ScriptedContainer, since: int) -> bool:
        """Connect `holder` and give it the past: the output, and the facts from `since` on; -> whether all output."""
        self.holders.append(holder)
        whole = self.script.remembers and self.state.status != "gone"
        for stream, data in self._written if whole else ():
            holder.hear_output(stream, data)
        if not self.lives and self.script.output_ends:
            holder.hear(facts.OutputEnded(self.schedule.wall()))
        for fact in self._past if self.script.recalls else ():
            if fact.at >= since:
                holder.hear(fact)
        return whole

    def _report(self, fact: facts.Fact, but: ScriptedContainer | None = None) -> None:
        for holder in list(self.holders):
            if holder is not but:
                holder.hear(fact)

    def _answer(self, name: str) -> None:
        if self.lives and (step := self.script.on_signal.get(name, exits(128 + signal_number(name)))):
            self._play(step)

    def _play(self, step: Step) -> None:
        self.schedule.at(step.after, lambda: step.play(self.latest))
