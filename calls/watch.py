"""Watching a call that runs: every fact is noted, every alarm kept, until there is nothing left to wait for."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from calls.alarms import Alarms
from calls.clock import Clock
from calls.measure import SampleGap, Samples
from calls.stopping import Stopping
from driver import protocol
from driver.protocol import Container, Observation, Sampling
from machine import facts
from machine.errors import DriverError
from machine.samples import Sample
from machine.signals import signal_number
from machine.states import State
from machine.units import SECOND
from machine.verdict import SIGKILL_EXIT, Evidence, Verdict, decide

if TYPE_CHECKING:
    from calls.conduct import Asked, Conductor
    from machine.history import History

SETTLE = SECOND // 4
"""How long a late fact is waited for when the exit code alone explains nothing."""
OBSERVE = SECOND // 50
"""When sampling begins: for what ends before, the totals say it all."""
GLANCE = 120 * SECOND
"""How often a running call is inspected although nothing was heard: events can be lost, but rarely are."""
NEWS = 10 * SECOND
"""How long news of an engine that was out of sight is waited for when the end is known."""
RECORD = 5 * SECOND
"""How long the engine's record of an end is waited for when its event has come: it adds little."""
_RETRIES = (0, SECOND // 10, SECOND // 2, SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 10 * SECOND)
_TOLD = frozenset(("die", "shell"))  # sources of an exit code that saw the end


class Watch:
    """The running part of one call, in the conductor's thread."""

    def __init__(
        self, conductor: Conductor, container: Container, evidence: Evidence, sampling: Sampling, clock: Clock
    ) -> None:
        """The call was started and that is recorded."""
        self._conductor = conductor
        self._spec = conductor.spec
        self._recorder = conductor.recorder
        self._container = container
        self._evidence = evidence
        self._sampling = sampling
        self._samples = Samples(conductor.spec, container, conductor.recorder, clock, conductor.fact)
        self._clock = clock
        self._alarms = Alarms()
        self._stopping = Stopping(container, evidence, self._alarms, clock, self._recorder, self._glance)
        self._handlers: dict[type, Callable[[Any], None]] = {
            protocol.Died: self._died,
            protocol.Destroyed: self._destroyed,
            protocol.OomKilled: self._note_oom,
            protocol.ForeignSignal: self._foreign_signal,
            protocol.HealthStatus: lambda fact: self._health(fact.status),
            protocol.Froze: self._froze,
            protocol.Thawed: self._thawed,
            protocol.OutputEnded: self._output_ended,
            protocol.OutputResumed: self._output_resumed,
            protocol.Unwatched: self._unwatched,
            protocol.Unreadable: self._unreadable,
            SampleGap: self._sample_gap,
        }
        self._ended = self._measured = False
        self._totals: Sample | None = None
        self._gap = self._blind = False
        self._awaiting_health = False

    def begin(self) -> None:
        """Its time runs from now on, and its health is awaited. `listen` comes next."""
        self._arm(self._spec.timeout)
        self._watch_health()

    def resume(self, past: History, peak: int, *, rebooted: bool) -> None:
        """As `begin` and `listen`, where somebody else watched before; `peak`: its highest memory then, bytes."""
        now = self._clock.wall()
        self._samples.peak = peak
        self._gap = rebooted  # then the engine had lost sight of it
        self._arm(None if past.deadline is None else max(0, past.deadline - now))
        if past.awaiting_health_since is not None and past.health_limit is not None:
            self._await_health(max(0, past.awaiting_health_since + past.health_limit - now))
        elif past.health_limit is None:
            self._watch_health()
        if past.last_signal is not None:
            self._stopping.resume(past.last_signal, now, self._spec.stop_timeout)
        self._glance()
        self.listen()

    def listen(self, patience: int | None = None) -> bool:
        """Return when the process has ended, is gone, or cannot be ended; False when that has not come in `patience`.

        In ns; None: for ever.
        """
        until = None if patience is None else self._clock.monotonic() + patience
        while not (self._ended or self._stopping.hopeless):
            now = self._clock.monotonic()
            if until is not None and now >= until:
                return False
            wait = min((due - now for due in (self._alarms.next_due(), until) if due is not None), default=None)
            try:
                item = self._clock.get(self._conductor.mailbox, None if wait is None else max(0, wait))
            except queue.Empty:
                self._alarms.ring(self._clock.monotonic())
            else:
                self.take(item)
        if not self._measured:  # now: a reader of the output may take its time
            self._measured, self._totals = True, self._samples.end()
        return True

    def verdict(self) -> Verdict:
        """What the evidence says, with the totals."""
        evidence = self._evidence
        self._hear_out()
        self._inspect_the_end()
        self._settle()
        self._wait(0)
        self._samples.note_lost()
        evidence.awaiting_health = self._recorder.state is State.HEALTH_WAIT
        self._note_unreported()
        evidence.engine_lost = self._gap and not self._told
        evidence.near_limit = self._samples.near_limit
        state, ended = decide(evidence)
        if state is State.SUCCESS and self._recorder.state is State.PAUSED:
            self._recorder.apply(facts.Resumed())  # nothing ends well while frozen: the thaw was not seen
        cpu = self._totals.cpu_total_ns if self._totals else None
        return Verdict(state, ended.replace(cpu_ns=cpu, mem_peak_bytes=self._samples.peak or None))

    @property
    def _told(self) -> bool:
        """Whether somebody who saw the end told its exit code."""
        return not _TOLD.isdisjoint(self._evidence.exits)

    def _note_unreported(self) -> None:
        """An end that was found by looking, with no gap to explain it: an event was lost."""
        if not (self._gap or self._evidence.recovered) and [*self._evidence.exits] == ["inspect"]:
            now, why = self._clock.wall(), "its end was found by looking, and not reported"
            since = min(now, self._evidence.finished_at or now)
            self._recorder.apply(facts.Gap(of="events", since=since, until=now, why=why, lost=1))

    def _arm(self, left: int | None) -> None:
        """`left`: the time until the deadline, ns."""
        now = self._clock.monotonic()
        if left is not None:
            self._alarms.set("deadline", now + left, lambda: self._stop("deadline"))
        self._alarms.set("glance", now + GLANCE, self._glance)
        if self._spec.sample is not None:
            self._alarms.set("observe", now + OBSERVE, lambda: self._samples.begin(self._sampling))

    def _stop(self, why: Literal["deadline", "health", "unhealthy", "cancel"]) -> None:
        self._stopping.stop(why, self._spec.stop_timeout)

    def _watch_health(self) -> None:
        check = self._container.preparation.health
        if check is None:
            return
        limit = self._spec.health_limit(check.interval, check.timeout, check.retries, check.start_period)
        self._recorder.apply(facts.HealthAwaited(limit=limit))
        self._await_health(limit)

    def _await_health(self, limit: int) -> None:
        self._awaiting_health = True
        self._alarms.set("health", self._clock.monotonic() + limit, self._health_overdue)

    def _health_overdue(self) -> None:
        seen = self._look()  # what we heard may not have been all
        if seen is not None and seen.health == "healthy" and self._recorder.state is State.HEALTH_WAIT:
            self._health("healthy")
        else:
            self._stop("health")

    def take(self, item: protocol.Fact | SampleGap | Asked) -> None:
        """Note one thing that was seen or asked for."""
        handler = self._handlers.get(type(item), self._obey)
        handler(item)

    def _died(self, fact: protocol.Died) -> None:
        self._evidence.exits.setdefault(fact.source, fact.exit_code)  # a second end is that of a second process
        self._evidence.death_signal = fact.signal
        self._ended = True

    def _destroyed(self, _: protocol.Destroyed) -> None:
        self._evidence.destroyed = self._ended = True

    def _foreign_signal(self, fact: protocol.ForeignSignal) -> None:
        if fact.by_engine:
            self._evidence.engine_stop = True
            return
        if self._evidence.external_signal is None or not fact.stop:
            self._evidence.external_signal = fact.signal
        self._evidence.external_stop |= fact.stop

    def _froze(self, _: protocol.Froze) -> None:
        if self._recorder.state in (State.RUNNING, State.HEALTH_WAIT):
            self._recorder.apply(facts.Paused())

    def _thawed(self, _: protocol.Thawed) -> None:
        if self._recorder.state is State.PAUSED:
            self._recorder.apply(facts.Resumed())
            if self._awaiting_health:
                self._watch_health()
                # It may have become healthy meanwhile, which is not told again.
                self._alarms.set("glance", self._clock.monotonic(), self._glance)

    def _output_ended(self, _: protocol.OutputEnded) -> None:
        self._conductor.output_ended()
        self._alarms.set("glance", self._clock.monotonic() + SETTLE, self._glance)

    def _output_resumed(self, fact: protocol.OutputResumed) -> None:
        self._conductor.output_resumed()
        why = "the connection broke off: what came meanwhile is what the engine has kept"
        self._recorder.apply(facts.Gap(of="output", since=fact.since, until=fact.at, why=why))

    def _sample_gap(self, gap: SampleGap) -> None:
        self._recorder.apply(facts.Gap(of="samples", since=gap.since, until=gap.at, why="no sample in time"))

    def _unreadable(self, fact: protocol.Unreadable) -> None:
        why = f"malformed: {fact.example}"
        self._recorder.apply(facts.Gap(of="samples", since=fact.since, until=fact.at, why=why, lost=fact.lost))

    def _obey(self, asked: Asked) -> None:
        match asked.why:
            case "cancel":
                self._stopping.stop("cancel", self._spec.stop_timeout if asked.grace is None else asked.grace)
            case "kill":
                self._stopping.kill(asked.signal)
            case "signal":
                self._stopping.message(asked.signal)
            case "pause" | "resume":
                self._stopping.turn(asked.why)
                # The driver reports what came of it; if that is lost, we look.
                self._alarms.set("glance", self._clock.monotonic() + SETTLE, self._glance)

    def _note_oom(self, fact: protocol.OomKilled) -> None:
        if fact.source not in self._evidence.oom:
            self._recorder.apply(facts.OomSeen(source=fact.source))
        self._evidence.oom.add(fact.source)

    def _health(self, status: str) -> None:
        output = None
        if status == "unhealthy":
            seen = self._look()
            output = seen.health_output if seen else None
        if self._recorder.state is State.HEALTH_WAIT and status == "healthy":
            self._awaiting_health = False
            self._alarms.clear("health")
            self._recorder.apply(facts.Healthy())
        else:
            self._recorder.apply(facts.HealthChanged(status=status, output=output))
        if status == "unhealthy":
            self._stop("unhealthy")

    def _unwatched(self, fact: protocol.Unwatched) -> None:
        self._gap, self._blind = True, not fact.over
        self._recorder.apply(facts.Gap(of="events", since=fact.since, until=fact.at, why=fact.why))
        self._glance()

    def _glance(self) -> None:
        """Look for ourselves: what an event would have told may have been lost."""
        self._alarms.set("glance", self._clock.monotonic() + GLANCE, self._glance)
        seen = self._look()
        if seen is None:
            self._alarms.set("glance", self._clock.monotonic() + SECOND, self._glance)
        elif seen.status in ("exited", "gone", "created"):  # (created: the engine only said that it was started)
            self._ended = True
        elif seen.status == "paused":
            self._froze(protocol.Froze(self._clock.wall()))
        elif self._recorder.state is State.PAUSED:
            self._thawed(protocol.Thawed(self._clock.wall()))
        elif seen.health == "healthy" and self._awaiting_health and self._recorder.state is State.HEALTH_WAIT:
            self._health("healthy")
        elif seen.health == "unhealthy" and self._evidence.stop is None:
            self._health("unhealthy")

    def _look(self) -> Observation | None:
        try:
            seen = self._container.inspect()
        except DriverError as error:
            self._evidence.error = str(error)
            return None
        began = self._evidence.started_at = self._evidence.started_at or seen.started_at
        doubt = 0 if self._evidence.exits else SECOND
        if began is not None and seen.started_at is not None and seen.started_at > began + doubt:
            return Observation("gone", error="somebody else started the container again")
        return seen

    def _hear_out(self) -> None:
        """Let what happened while nothing was heard be told, before an end that was found by looking is judged.

        An engine that comes back stops what still runs: whatever exit code that leaves, it is no success.
        """
        until = self._clock.monotonic() + NEWS
        while self._blind and not self._stopping.hopeless and (left := until - self._clock.monotonic()) > 0:
            with suppress(queue.Empty):
                self.take(self._clock.get(self._conductor.mailbox, left))
        if self._gap and not self._told:
            self._wait(SETTLE)

    def _inspect_the_end(self) -> None:
        """The record behind the event: its exit code, the engine's times, the OOM flag."""
        begun = self._clock.monotonic()
        for pause in _RETRIES:
            if self._evidence.exits and self._clock.monotonic() + pause - begun > RECORD:
                return
            self._wait(pause)
            seen = self._look()
            if seen is None or (seen.status in ("running", "paused") and not self._stopping.hopeless):
                continue
            self._evidence.error = seen.error
            if seen.exit_code is not None:
                self._evidence.exits["inspect"] = seen.exit_code
            self._evidence.started_at = seen.started_at or self._evidence.started_at
            self._evidence.finished_at = seen.finished_at
            if seen.oom_killed:
                self._evidence.oom.add("inspect")
            return

    def _settle(self) -> None:
        """Wait a moment for a late fact where the code alone is ambiguous: 137, or a signal that does not fit."""
        seen = self._evidence
        foreign = seen.external_signal and seen.exit_code != 128 + signal_number(seen.external_signal)
        told = seen.oom or seen.stop or seen.external_signal or seen.messages
        puzzling = seen.exit_code == SIGKILL_EXIT and not told
        removing = seen.external_signal and self._recorder.state is State.HEALTH_WAIT and not seen.destroyed
        if (foreign and not seen.external_stop and seen.stop is None) or puzzling or removing:
            self._wait(SETTLE)

    def _wait(self, span: int) -> None:
        """Let `span` go by and take what comes; what is in the mailbox already is taken in any case."""
        until = self._clock.monotonic() + span
        while True:
            try:
                self.take(self._clock.get(self._conductor.mailbox, max(0, until - self._clock.monotonic())))
            except queue.Empty:
                return
