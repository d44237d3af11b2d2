"""Conducting a call that another runner began: from what is on record, and from what can still be found.

The container is looked for, never made and never started. What was not observed is recorded as a gap; what is not
known is never guessed: a container that is gone leaves an `error/lost`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from calls.capture import Capture, Kept
from calls.clock import Clock
from calls.conduct import Conductor, Tell, prepared
from calls.recorder import Recorder
from driver.protocol import Container, Driver, Observation, Sampling, Trace
from ledger.read import Chunk
from machine import facts
from machine.history import History
from machine.states import Kind, Reason, State
from machine.verdict import Verdict, decide, never_ran

GONE = "its runner is gone"


class Successor(Conductor):
    """Conducts one call that was adopted. See `Conductor`."""

    def __init__(
        self,
        past: History,
        driver: Driver,
        sampling: Sampling,
        recorder: Recorder,
        clock: Clock,
        tell: Tell = lambda _, __: None,
        attached: Callable[[], None] = lambda: None,
    ) -> None:
        """`recorder` stands where `past` ends; `attached` is called when a container that runs was found."""
        spec = past.spec
        super().__init__(past.uid, spec, driver, sampling, recorder, _deaf(recorder, clock), clock, tell)
        self._past = past
        self._on_started = attached
        self._kept: Mapping[int, Kept] = {}
        self._seen_until = past.since
        self._peak = 0
        self._rebooted = False
        self._early: list[tuple[int, bytes]] | None = []
        self._feeding = threading.Lock()

    def output(self, stream: int, data: bytes) -> None:
        """Output arrived: held back until it is known whether it comes again from its beginning."""
        with self._feeding:
            if self._early is not None:
                self._early.append((stream, data))
                return
        super().output(stream, data)

    def take_over(self, kept: Mapping[int, Kept], seen_until: int, peak: int, *, rebooted: bool) -> Verdict:
        """Conduct the call to its end; -> the verdict, which it may have had already.

        `kept`: its recorded output, by stream; `seen_until`: when its runner was last at work, ns; `peak`: its
        highest recorded memory, bytes; `rebooted`: its host was started again since. DriverError when the engine
        cannot say what became of it: nothing is settled.
        """
        self._kept, self._seen_until, self._peak, self._rebooted = kept, seen_until, peak, rebooted
        self._container = self._driver.recover(self.uid, self.spec, self, trace(self._past))
        try:
            verdict = self._resume(self._container)
            if self._past.verdict is None:
                self.recorder.end(verdict)
        except BaseException as error:
            self._abandon(error)
            raise
        self._clean()
        return verdict

    def _resume(self, container: Container | None) -> Verdict:
        past = self._past
        if container is None:
            return past.verdict or gone(past)
        self._know_secrets(container)
        if past.verdict is not None:
            self._connect(container)
            return past.verdict
        seen = container.inspect()
        if seen.status == "gone":
            return gone(past)
        if past.state is State.PREPARING:
            self.recorder.apply(prepared(container.preparation))
        if seen.status == "created" and seen.started_at is None:
            if container.discard():
                return unstarted(past)
            seen = container.inspect()  # a start that was under way when its runner died
        if past.started is None:
            self._note_start(seen)
        return self._watch(container, seen)

    def _note_start(self, seen: Observation) -> None:
        began = seen.started_at
        deadline = None if began is None or self.spec.timeout is None else began + self.spec.timeout
        self.recorder.apply(facts.Started(engine_at=began, pid=seen.pid, deadline=deadline, ports=seen.ports))
        self._past.started = {"deadline": deadline}
        self._past.evidence.started_at = began

    def _watch(self, container: Container, seen: Observation) -> Verdict:
        from calls.watch import Watch

        past, evidence = self._past, self._past.evidence
        evidence.recovered = True
        self._note_gaps()
        watch = Watch(self, container, evidence, self._sampling, self._clock)
        self._connect(container)
        if seen.status != "exited":
            self._on_started()
        watch.resume(past, self._peak, rebooted=self._rebooted)
        return self._conclude(watch)

    def _note_gaps(self) -> None:
        now = self._clock.wall()
        of: tuple[facts.Unseen, ...] = ("events", "samples") if self.spec.sample is not None else ("events",)
        for what in of:
            self.recorder.apply(facts.Gap(of=what, since=self._seen_until, until=now, why=GONE))

    def _connect(self, container: Container) -> None:
        """Output and facts, from here on."""
        self._started_once = self._past.started is not None
        if not self._started_once:
            return
        again = container.rejoin()
        if not again:
            now = self._clock.wall()
            why = f"{GONE}, and what was written meanwhile cannot be read again"
            self.recorder.apply(facts.Gap(of="output", since=self._seen_until, until=now, why=why))
        self._capture = Capture(
            self.spec.log_limit,
            self.recorder.redactor,
            self._clock.wall,
            self.recorder.output,
            kept=self._kept,
            again=again,
        )
        with self._feeding:
            early, self._early = self._early or [], None
            for stream, data in early:
                self._capture.feed(stream, data)

    def _keep_tails(self) -> None:
        super()._keep_tails()
        if self._capture.differs:
            self._capture.differs = False
            now = self._clock.wall()
            why = "the output that was read again does not begin with what is recorded"
            self.recorder.apply(facts.Gap(of="output", since=self._seen_until, until=now, why=why))


def trace(past: History) -> Trace:
    """What a driver needs to know of a call to find its container."""
    made = past.prepared
    return Trace(
        since=past.since,
        container=made.get("container"),
        pid=(past.started or {}).get("pid"),
        image_id=made.get("image_id"),
        image_digest=made.get("image_digest"),
        cgroup_parent=made.get("cgroup_parent"),
    )


def gone(past: History) -> Verdict:
    """The verdict on a call whose runner is gone and that has no container (any more)."""
    if past.state is State.PREPARING:
        return _asked_for(past) or never_ran(State.ERROR, Reason.LOST, f"{GONE}; it had no container yet")
    seen = past.evidence.replace(stop=None, recovered=True, error=f"{GONE}, and so is its container")
    return decide(seen)


def unstarted(past: History) -> Verdict:
    """The verdict on a call whose container was made and never started."""
    message = f"{GONE}; it had not started"
    return _asked_for(past) or never_ran(State.CANCELLED, Reason.RUNNER_LOST, message)


def kept_output(chunks: Iterable[Chunk], limit: int | None) -> dict[int, Kept]:
    """What is recorded of each stream: what stands without a hole from its beginning."""
    found: dict[int, Kept] = {}
    head = (limit or 0) - (limit or 0) // 2
    for chunk in chunks:
        before = found.get(chunk.stream, Kept(b""))
        if chunk.offset == len(before.data):
            data = before.data + chunk.data
            found[chunk.stream] = Kept(data, before.whole or len(data) > head)
        else:
            found[chunk.stream] = before._replace(whole=True)
    return found


def _asked_for(past: History) -> Verdict | None:
    wanted = set(past.pending.values())
    if Kind.CANCEL_REQUESTED in wanted:
        return never_ran(State.CANCELLED, Reason.USER, "cancelled before it started")
    if Kind.KILL_REQUESTED in wanted:
        return never_ran(State.KILLED, Reason.USER, "killed before it started")
    return None


def _deaf(recorder: Recorder, clock: Clock) -> Capture:
    return Capture(None, recorder.redactor, clock.wall, recorder.output)
