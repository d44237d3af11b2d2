"""A driver used by hand, step by step, and recorded nowhere: for tests of drivers, and for tools.

A `Session` is conducted like any call: by the same table, stopped in the same way, with the same verdict.

>>> from driver.scripted import Schedule, Script, ScriptedDriver, exits
>>> schedule = Schedule()
>>> driver = ScriptedDriver(schedule, Script([exits(3, after=60)]))
>>> session = Session(driver, Spec.parse(driver="scripted"), clock=schedule)
>>> session.prepare(), session.start(), session.start()
(True, True, False)
>>> session.wait(timeout=10), session.wait().exit_code
(None, 3)
>>> session.remove()
>>> [str(event.kind) for event in session.events]
['submitted', 'prepared', 'started', 'failed', 'cleaned']
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from calls.capture import Capture
from calls.clock import Clock, SystemClock
from calls.conduct import Asked, Conductor, EndedEarly, Tell
from calls.identity import new_id, owner
from calls.outcome import Call, outcome
from calls.recorder import Recorder
from driver.protocol import Driver, Fact, Meter, OutputEnded, OutputResumed, Sink
from machine import facts
from machine.errors import CallEndedError, NotRunningError
from machine.samples import Sample
from machine.secrets import Redactor
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.states import STARTED, Kind, State
from machine.units import SECOND, duration
from machine.verdict import Verdict

if TYPE_CHECKING:
    from calls.measure import SampleGap
    from calls.watch import Watch

MOMENT = SECOND // 100
"""For so long facts are listened to at a time, when something was asked for."""
PATIENCE = SECOND
"""How long it may take a pause, or its end, to show."""

Made = TypeVar("Made")


class Noted(NamedTuple):
    """An event that a ledger would have: `state` after it, `at` in ns, `data` as JSON."""

    kind: Kind
    state: State
    at: int
    data: str


class Session(Conductor):
    """One call of a driver. One thread uses it; only `logs` and `ask` may be called from others.

    `events`: what has happened, oldest first. Facts are taken note of while something is waited for.
    """

    def __init__(
        self,
        driver: Driver,
        spec: Spec,
        uid: str | None = None,
        *,
        clock: Clock | None = None,
        tell: Tell = lambda _, __: None,
    ) -> None:
        """`uid`: whoever has the same one has the same container. SpecError for what the driver cannot honour."""
        driver.check(spec)
        clock, pages = clock or SystemClock(), _Pages()
        recorder = Recorder(pages, clock, Redactor())
        capture = Capture(None, Redactor(), clock.wall, recorder.output, self._keep)
        spec = spec._replace(sample=None)
        super().__init__(uid or new_id(), spec, driver, _NoSampling(), recorder, capture, clock, tell)
        self.events = pages.events
        self._watch: Watch | None = None
        self._verdict: Verdict | None = None
        self._said: list[tuple[int, bytes]] = []
        self._all_said = False
        self._news = threading.Condition()
        submitted = facts.Submitted(uid=self.uid, driver=spec.driver, spec=spec.asked(), owner=owner(self.uid))
        recorder.apply(submitted)

    @property
    def state(self) -> State:
        """Where the call is."""
        return self.recorder.state

    @property
    def outcome(self) -> Call | None:
        """How it ended; None while it has not."""
        return None if self._verdict is None else outcome(self.uid, self._verdict)

    def prepare(self) -> bool:
        """Make the container; False when it is prepared already. One of this very call is adopted.

        DriverError when it cannot be made: the call has ended then and never ran. CallEndedError after its end.
        """
        if self._container is None:
            self._step(self._prepare)
            return True
        return False

    def start(self) -> bool:
        """Start it, prepared or not; False when it is started already. Errors are those of `prepare`."""
        if self._watch is None:
            self._watch = self._step(lambda: self._start(self._container or self._prepare()))
            return True
        return False

    def wait(self, timeout: float | None = None) -> Call | None:
        """Wait for its end, so many seconds at most; -> how it ended, however often it is asked for, or None.

        NotRunningError when it was not started.
        """
        if self._verdict is None:
            if self._watch is None:
                raise NotRunningError("it was not started: its end would never come")
            if not self._watch.listen(None if timeout is None else duration(timeout)):
                return None
            self._end(self._conclude(self._watch))
        return self.outcome

    def stop(self, grace: float | None = None) -> Call:
        """Stop signal, `grace` seconds (None: the spec's), SIGKILL; -> how it ended. What has ended is left alone."""
        return self._finish(Asked("cancel", grace=None if grace is None else duration(grace)))

    def terminate(self) -> Call:
        """SIGKILL at once; -> how it ended. What has ended is left alone."""
        return self._finish(Asked("kill"))

    def signal(self, name: str) -> None:
        """Send a signal, as a message. NotRunningError unless it runs; ValueError for what is no signal."""
        self._ask_running(Asked("signal", signal_name(signal_number(name))), lambda: True)

    def pause(self) -> bool:
        """Freeze it; whether it is. NotRunningError unless it runs."""
        return self._ask_running(Asked("pause"), lambda: self.state is State.PAUSED)

    def resume(self) -> bool:
        """Let it go on; whether it does. NotRunningError unless it runs."""
        return self._ask_running(Asked("resume"), lambda: self.state in STARTED - {State.PAUSED})

    def logs(self, *, follow: bool = True) -> Iterator[tuple[int, bytes]]:
        """What it has written, (stream, data), and with `follow` what comes, up to the end of both streams."""
        taken = 0
        while True:
            with self._news:
                self._news.wait_for(lambda: len(self._said) > taken or self._all_said or not follow)  # noqa: B023
                pieces, over = self._said[taken:], self._all_said or not follow
            yield from pieces
            taken += len(pieces)
            if over and not pieces:
                return

    def remove(self) -> None:
        """Remove the container, stopped before if it runs. Again, or without one: nothing is done."""
        if self.events[-1].kind is not Kind.CLEANED:
            self.stop()
            self._clean()
            self._hush()

    def close(self) -> None:
        """Let go of threads and sockets, not of the container. Idempotent."""
        if self._container is not None:
            self._container.close()
        self._hush()

    # The watcher's side, called from any thread.

    def fact(self, fact: Fact | SampleGap) -> None:
        """Something happened."""
        super().fact(fact)
        if isinstance(fact, OutputEnded | OutputResumed):
            with self._news:
                self._all_said = isinstance(fact, OutputEnded)
                self._news.notify_all()

    def _keep(self, stream: int, data: bytes) -> None:
        with self._news:
            self._said.append((stream, data))
            self._news.notify_all()

    def _hush(self) -> None:
        with self._news:
            self._all_said = True
            self._news.notify_all()

    # The steps.

    def _step(self, act: Callable[[], Made]) -> Made:
        if self.state.terminal:
            raise CallEndedError(f"it has ended already: {self.state}")
        try:
            return act()
        except EndedEarly as early:
            self._end(early.verdict)
            raise early.__cause__ or CallEndedError(f"it has ended: {self.state}") from None

    def _end(self, verdict: Verdict) -> None:
        self.recorder.end(verdict)
        self._verdict = verdict

    def _finish(self, asked: Asked) -> Call:
        if self._verdict is None:
            self.ask(asked)
            if self._watch is None and (verdict := self._unprepared()) is not None:
                self._end(verdict)
        while (found := self.wait()) is None:
            pass
        return found

    def _ask_running(self, asked: Asked, done: Callable[[], bool]) -> bool:
        """Ask, and listen until it is done, or does not seem to be coming; -> whether it is."""
        if self._watch is None or self.state not in STARTED:
            raise NotRunningError(f"it does not run: it is {self.state}")
        self.ask(asked)
        until = self._clock.monotonic() + PATIENCE
        while not self._watch.listen(MOMENT) and not done() and self._clock.monotonic() < until:
            pass
        return done()


class _Pages:
    """What stands for a ledger: its events are kept, and nothing else is."""

    def __init__(self) -> None:
        self.events: list[Noted] = []

    def submit(self, uid: str, at: int, data: str) -> int:
        """See `calls.recorder.Log`."""
        self.events.append(Noted(Kind.SUBMITTED, State.PREPARING, at, data))
        return 1

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        """See `calls.recorder.Log`."""
        self.events.append(Noted(kind, state or self.events[-1].state, at, data))

    def sample(self, call_id: int, at: int, sample: Sample) -> bool:
        """See `calls.recorder.Log`."""
        return True

    def output(self, call_id: int, at: int, stream: int, offset: int, data: bytes) -> None:
        """See `calls.recorder.Log`."""

    def dropped(self, call_id: int) -> int:
        """See `calls.recorder.Log`."""
        return 0

    def lost_output(self, call_id: int) -> int:
        """See `calls.recorder.Log`."""
        return 0

    def forget(self, call_id: int) -> None:
        """See `calls.recorder.Log`."""


class _NoSampling:
    def add(self, meter: Meter, interval: int, sink: Sink) -> Callable[[], None]:
        """See `driver.protocol.Sampling`: it is asked for with samples only."""
        raise NotImplementedError
