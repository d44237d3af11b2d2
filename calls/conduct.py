"""One call from its first event to its last: intent before act, written before believed.

A conductor runs in a thread of its own and only there; whatever others see or want reaches it through its
mailbox. It decides by the table (`machine.table`) and by the evidence (`machine.verdict`), not by itself.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from calls.capture import Capture
from calls.clock import Clock
from calls.recorder import Recorder
from driver.protocol import Beginning, Container, Driver, Fact, OutputEnded, OutputResumed, Preparation, Sampling
from machine import facts
from machine.errors import CallsError, DriverError, LedgerError, TakenOverError, UnknownOutcomeError
from machine.spec import Spec
from machine.states import Reason, Request, State
from machine.units import SECOND
from machine.verdict import Evidence, Verdict, decide, never_ran

if TYPE_CHECKING:
    from calls.measure import SampleGap
    from calls.watch import Watch

DRAIN = 2 * SECOND
"""How long the verdict waits for output that makes no progress."""
ENGINE_RETRY, MAX_ENGINE_RETRY = SECOND // 10, 5 * SECOND
"""How soon an engine that does not answer is asked again: with --prepare-timeout only, and each time later."""
ABANDON = 10 * SECOND
"""How long a silent stream is waited for after the verdict, before the container is removed."""


Tell = Callable[[str, bool], None]
"""Takes a line for a person, and whether it is to stay: a warning does, progress does not."""
Auth = Mapping[str, Any] | Callable[[str], Mapping[str, Any] | None] | None
"""Credentials for the registry of a call's image, or what gives them when it is called with the registry's host.

`username` and `password`, `identitytoken`, `registrytoken`, or `auth` as in Docker's configuration file.
"""


class Asked(NamedTuple):
    """What somebody wants: the end, `cancel` in good order or `kill` by a signal; or something that ends nothing.

    `grace`: of a cancellation, ns; None for the spec's.
    """

    why: Request
    signal: str = "KILL"
    grace: int | None = None


class Conductor:
    """Conducts one call. Is its `driver.protocol.Watcher`."""

    def __init__(
        self,
        uid: str,
        spec: Spec,
        driver: Driver,
        sampling: Sampling,
        recorder: Recorder,
        capture: Capture,
        clock: Clock,
        tell: Tell = lambda _, __: None,
        auth: Auth = None,
    ) -> None:
        """`tell` gets lines for a person; `auth` has credentials for the image's registry."""
        self._auth = auth
        self.uid = uid
        self.spec = spec
        self.mailbox: queue.SimpleQueue[Fact | SampleGap | Asked] = queue.SimpleQueue()
        self.recorder = recorder
        self._driver = driver
        self._sampling = sampling
        self._capture = capture
        self._clock = clock
        self._tell = tell
        self._asked: Asked | None = None
        self._held: list[Fact | SampleGap | Asked] = []
        self._container: Container | None = None
        self._prepare_by: int | None = None
        self._output_ended = False
        self._started_once = False
        self._on_started: Callable[[], None] = lambda: None

    # The watcher's side, called from any thread.

    def fact(self, fact: Fact | SampleGap) -> None:
        """Something happened."""
        self.mailbox.put(fact)

    def output(self, stream: int, data: bytes) -> None:
        """Output arrived."""
        self._capture.feed(stream, data)

    def pulled(self, image: str, seconds: float, fallback: str | None) -> None:
        """The image is here."""
        self.recorder.apply(facts.Pulled(image=image, seconds=round(seconds, 3), fallback=fallback))

    def pull_progressed(self, image: str, current: int, total: int) -> None:
        """It is on its way."""
        self.recorder.apply(facts.PullProgressed(image=image, current=current, total=total))

    def credentials(self, registry: str) -> Mapping[str, Any] | None:
        """What the caller gave, or gives when asked. Its own words are not repeated: they may hold a secret."""
        if not callable(self._auth):
            return self._auth
        try:
            return self._auth(registry)
        except Exception as error:
            message = f"no credentials for {registry}: asked for them, the caller raised {type(error).__name__}"
            raise DriverError(Reason.PULL_DENIED, message) from error

    def progress(self, text: str) -> None:
        """A line for a person who waits."""
        self._tell(text, False)

    def given_up(self) -> bool:
        """Whether preparing has become pointless."""
        return self._asked is not None or self._late()

    def output_ended(self) -> None:
        """Both streams are at their end."""
        self._output_ended = True

    def output_resumed(self) -> None:
        """Their end was only that of a connection."""
        self._output_ended = False

    def ask(self, asked: Asked) -> None:
        """Somebody wants something of the call. Of those who want its end, the last word counts."""
        if asked.why in ("cancel", "kill"):
            self._asked = asked
        self.mailbox.put(asked)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, if it has one by now. Not recorded."""
        if self.spec.tty and self._container is not None:
            self._container.resize(rows, columns)

    # The call's own thread from here on.

    def conduct(
        self,
        first: facts.Submitted | facts.Admitted,
        started: Callable[[], None] = lambda: None,
        born: Callable[[Conductor], None] = lambda _: None,
    ) -> Verdict:
        """Carry the call out and record it; `born` is called when it is recorded, `started` when its process runs.

        `first`: that it is submitted, or for a call that is recorded already and had to wait, that it is admitted.
        """
        self._on_started = started
        self.recorder.apply(first)
        born(self)
        if self.spec.prepare_timeout is not None:
            self._prepare_by = self._clock.monotonic() + self.spec.prepare_timeout
        try:
            verdict = self._carry_out()
            self.recorder.end(verdict)
        except BaseException as error:
            self._abandon(error)
            raise
        self._clean()
        return verdict

    def _carry_out(self) -> Verdict:
        try:
            return self._run(self._prepare())
        except EndedEarly as early:
            return early.verdict

    def _abandon(self, error: BaseException) -> None:
        """What cannot be recorded must not go on unseen: kill it. It is kept: it is all the evidence there is."""
        if self._container is not None:
            if not isinstance(error, TakenOverError):  # then it is somebody else's, and recorded
                with contextlib.suppress(DriverError):
                    self._container.signal("KILL")
            self._container.close()
        if not isinstance(error, LedgerError) and not self.recorder.state.terminal:
            message = f"{type(error).__name__}: {error}"
            with contextlib.suppress(CallsError):
                self.recorder.end(Verdict(State.ERROR, facts.Ended(reason=Reason.RUNNER_FAULT, message=message)))

    def _prepare(self) -> Container:
        _load_meanwhile()
        pause = ENGINE_RETRY
        while True:
            try:
                container = self._container = self._driver.prepare(self.uid, self.spec, self)
                self._know_secrets(container)
                break
            except DriverError as error:
                if not self._waits_for_engine(error, pause):
                    verdict = self._unprepared() or never_ran(State.ERROR, error.reason, str(error))
                    raise EndedEarly(verdict) from error
                pause = min(2 * pause, MAX_ENGINE_RETRY)
        made = container.preparation
        self.recorder.apply(prepared(made))
        for warning in made.warnings:
            self._tell(f"warning: {warning}", True)
        return container

    def _know_secrets(self, container: Container) -> None:
        """Those that are not the spec's: the image's, or what a process of this host inherits."""
        self.recorder.redactor.learn(self.spec.secrets(container.environment()))

    def _waits_for_engine(self, error: DriverError, pause: int) -> bool:
        """Whether to try again, after `pause` ns: while nothing was done, and the time to prepare allows it."""
        if error.reason is not Reason.ENGINE_UNAVAILABLE or self._prepare_by is None:
            return False
        if self._asked is None and self._clock.monotonic() + pause < self._prepare_by:
            self._tell(f"{error}; trying again", False)
            with contextlib.suppress(queue.Empty):
                self._held.append(self._clock.get(self.mailbox, pause))
            return self._asked is None
        return False

    def _unprepared(self) -> Verdict | None:
        """The verdict when somebody, or the time, ended the call before it started."""
        if self._asked is not None:
            return called_off(self._asked)
        if self._late():
            return never_ran(State.TIMEOUT, Reason.PREPARE, "not prepared in time")
        return None

    def _late(self) -> bool:
        return self._prepare_by is not None and self._clock.monotonic() >= self._prepare_by

    def _run(self, container: Container) -> Verdict:
        watch = self._start(container)
        watch.listen()
        return self._conclude(watch)

    def _start(self, container: Container) -> Watch:
        if verdict := self._unprepared():
            raise EndedEarly(verdict)
        evidence = Evidence()
        try:
            beginning = container.start()
        except UnknownOutcomeError as error:
            evidence.error = str(error)
            raise EndedEarly(decide(evidence)) from error
        except DriverError as error:
            verdict = self._unprepared() or never_ran(State.ERROR, error.reason, str(error))
            raise EndedEarly(verdict) from error
        from calls.watch import Watch

        evidence.started_at = beginning.engine_at
        self._started(beginning)
        watch = Watch(self, container, evidence, self._sampling, self._clock)
        watch.begin()
        return watch

    def _conclude(self, watch: Watch) -> Verdict:
        whole = self._drain(DRAIN, watch.take)
        verdict = watch.verdict()
        if whole:
            self._keep_tails()
        return verdict

    def _started(self, beginning: Beginning) -> None:
        timeout = self.spec.timeout
        deadline = None if timeout is None else self._clock.wall() + timeout
        engine_at, pid, ports = beginning
        self.recorder.apply(facts.Started(engine_at=engine_at, pid=pid, deadline=deadline, ports=ports))
        self._started_once = True
        for item in self._held:  # asked for while there was no engine, and not the end: it can be done now
            self.mailbox.put(item)
        self._on_started()

    def _drain(self, patience: int, take: Callable[[Fact | SampleGap | Asked], None]) -> bool:
        """Wait for the end of the output, as long as it makes progress; -> whether it came."""
        while not self._output_ended:
            fed = self._capture.fed
            try:
                take(self._clock.get(self.mailbox, patience))
            except queue.Empty:
                if self._capture.fed == fed and not self._capture.busy:
                    return False
        return True

    def _after_the_end(self, item: Fact | SampleGap | Asked) -> None:
        # The verdict stands; of what is still heard, only the end of the output matters.
        if isinstance(item, OutputEnded | OutputResumed):
            self._output_ended = isinstance(item, OutputEnded)

    def _keep_tails(self) -> None:
        for cut in self._capture.close():
            self.recorder.apply(facts.OutputCut(stream=cut.stream, offset=cut.offset, lost=cut.lost))

    def _finish_output(self) -> None:
        since = self._clock.wall()
        if self._started_once and not self._drain(ABANDON, self._after_the_end):
            why = "the output stream did not end"
            self.recorder.apply(facts.Gap(of="output", since=since, until=self._clock.wall(), why=why))
        self._keep_tails()
        if lost := self.recorder.lost_output():
            why = "it could not be written"
            self.recorder.apply(facts.Gap(of="output", since=since, until=self._clock.wall(), why=why, lost=lost))

    def _clean(self) -> None:
        """After the verdict is durable, and only then: remove the container, and say so."""
        container, error = self._container, None
        if container is not None:
            self._finish_output()
            try:
                if self.spec.keep:
                    container.close()
                else:
                    container.remove()
            except DriverError as failed:
                error = str(failed)
                self._tell(f"warning: the call's container is left behind, for calls recover to remove: {error}", True)
        removed = container is not None and not (self.spec.keep or self.spec.hot) and error is None
        self.recorder.apply(facts.Cleaned(removed=removed, error=error))
        self.recorder.close()


def _load_meanwhile() -> None:
    """For the first call: while the engine makes its container, load what is needed once it has (8 ms)."""
    if "calls.watch" not in sys.modules:
        with contextlib.suppress(RuntimeError):  # no thread to be had: it is loaded when it is needed
            threading.Thread(target=_load, name="loader", daemon=True).start()


def _load() -> None:
    import calls.watch  # noqa: F401
    from machine.lifecycle import shared

    shared()


def called_off(asked: Asked) -> Verdict:
    """The verdict when somebody ended the call before it started."""
    if asked.why == "cancel":
        return never_ran(State.CANCELLED, Reason.USER, "cancelled before it started")
    return never_ran(State.KILLED, Reason.USER, "killed before it started")


def prepared(made: Preparation) -> facts.Prepared:
    """What is recorded of a container that was prepared."""
    return facts.Prepared(
        container=made.container,
        image_id=made.image_id,
        image_digest=made.image_digest,
        cgroup_parent=made.cgroup_parent,
        warnings=made.warnings,
        network=made.network,
        holder=made.holder,
        hot=made.hot or None,
    )


class EndedEarly(Exception):  # noqa: N818 - a verdict on its way, not an error
    """The call never ran, or nobody knows whether it did."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.state)
        self.verdict = verdict
