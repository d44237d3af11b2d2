"""The runner: carries out calls, any number at once, and records each in the ledger."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from calls.capture import Capture, PassOn
from calls.clock import Clock, SystemClock
from calls.conduct import Asked, Conductor, Tell
from calls.identity import new_id, owner, requester
from calls.outcome import Call, outcome
from calls.recorder import Recorder
from calls.settings import fingerprinter, ledger_path
from driver.protocol import Driver, Labels
from driver.pump import Pump
from driver.sampler import Sampler
from ledger.ledger import Ledger
from machine import facts
from machine.errors import CallsError, LedgerError, RefusedError, UsageError
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.states import Kind
from machine.verdict import Verdict

MAX_CALLS = 256

Via = Literal["api", "cli", "interrupt", "terminate", "close"]


class CallFuture(Future[Call]):
    """A call under way. `id` is known at once; the result is a `Call`, whatever became of it."""

    def __init__(self, uid: str) -> None:
        """Made by `Runner.submit`."""
        super().__init__()
        self.id = uid


class Runner:
    """Runs calls. Use it as a context manager; leaving it waits for the calls under way.

    Thread-safe. Raises UsageError for a wrong option and LedgerError for an unusable ledger, both before
    anything is done; how a call ended is a state, never an exception.
    """

    def __init__(
        self,
        ledger: str | Path | None = None,
        *,
        max_calls: int = MAX_CALLS,
        clock: Clock | None = None,
        drivers: Iterable[Driver] = (),
        tell: Tell = lambda _, __: None,
        recover: bool = True,
    ) -> None:
        """`ledger`: the file (default: CALLS_LEDGER, else by XDG). `drivers` add to or replace the built-in ones.

        With `recover`, calls in the ledger whose runner is gone are settled, in a process of its own.
        """
        if max_calls < 1:
            raise UsageError("max_calls: must be at least 1")
        self._pid = os.getpid()
        self.clock = clock or SystemClock()
        self.tell = tell
        self._live: dict[int, Conductor] = {}
        self._handled: dict[int, int] = {}
        self._unborn: dict[str, list[tuple[Kind, facts.Fact]]] = {}
        self._lock = threading.Lock()
        self.id = new_id()
        self.owner = owner(self.id)
        self.ledger = Ledger(ledger_path(ledger), self._obey, self.owner, lambda line: tell(f"warning: {line}", True))
        self._labels = Labels(self.ledger.id, self.id)
        self._pump = Pump()
        self.sampler = Sampler()
        self._drivers: dict[str, Driver] = {driver.name: driver for driver in drivers}
        self._slots = ThreadPoolExecutor(max_calls, thread_name_prefix="call")
        self._closed = False
        if recover:
            self._succeed()

    def _succeed(self) -> None:
        unsettled = self.ledger.unsettled()
        if unsettled:  # else there is no need to load all this
            from calls.orphans import orphans, summon

            if orphans(unsettled, self.clock.wall()):
                summon(self.ledger.path)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the calls under way; after an exception cancel them first."""
        if kind is not None:
            self.cancel_all("close")
        self.close()

    def run(self, image: str | None, command: Iterable[str] = (), **options: Any) -> Call:
        """Run a call to its end. The options are those of `calls run`, with underscores.

        An interrupt (Ctrl-C) cancels the call, waits for its end, and is raised again.
        """
        future = self.submit(image, command, **options)
        try:
            return future.result()
        except KeyboardInterrupt:
            self.cancel(future.id, via="interrupt")
            future.result()
            raise

    def submit(self, image: str | None, command: Iterable[str] = (), **options: Any) -> CallFuture:
        """Begin a call and return at once. Wrong options raise here, before anything is recorded."""
        from calls.options import build_spec  # with pydantic behind it; who has a spec need not load that

        pass_on = options.pop("output", None)
        return self.submit_spec(build_spec(image, command, **options), pass_on)

    def submit_spec(
        self, spec: Spec, pass_on: PassOn | None = None, started: Callable[[], None] = lambda: None
    ) -> CallFuture:
        """As `submit`, for a spec. `pass_on` gets (stream, bytes); `started` is called when the process runs."""
        if self._closed or os.getpid() != self._pid:
            raise UsageError("this runner is closed" if self._closed else "a runner cannot be used after a fork")
        driver = self.driver(spec.driver)
        driver.check(spec)
        if spec.idempotency_key and (known := self.ledger.keyed(spec.idempotency_key)):
            future = CallFuture(known)
            self.undertake(future, lambda: self._follow(future, started))
            return future
        record = spec.record(fingerprinter(self.ledger.id))
        future = CallFuture(new_id())
        with self._lock:
            self._unborn[future.id] = []
        self._slots.submit(self._carry_out, future, spec, record, driver, pass_on, started)
        return future

    def undertake(self, future: CallFuture, conduct: Callable[[], Verdict]) -> None:
        """Do `conduct` in a slot; its verdict is the future's result."""
        self._slots.submit(_fulfil, future, conduct)

    def _follow(self, future: CallFuture, started: Callable[[], None]) -> Verdict:
        from calls.follow import follow

        self.tell(f"{future.id} is this call already: waiting for its end", True)
        started()
        return follow(self.ledger.path, future.id)

    def enlist(self, conductor: Conductor, obeyed: int = 0) -> None:
        """The conductor's call is recorded as ours: carry out what was asked for in its log after event `obeyed`."""
        call_id = conductor.recorder.call_id
        with self._lock:
            self._live[call_id], self._handled[call_id] = conductor, obeyed
            early = self._unborn.pop(conductor.uid, ())
        for kind, fact in early:
            self._request(conductor.uid, kind, fact)
        self._obey()

    def dismiss(self, conductor: Conductor) -> None:
        """Nothing more is done about the conductor's call."""
        with self._lock:
            self._unborn.pop(conductor.uid, None)
            self._live.pop(conductor.recorder.call_id, None)
            self._handled.pop(conductor.recorder.call_id, None)

    def cancel(self, call: str, comment: str | None = None, via: Via = "api") -> None:
        """End a call of this runner in good order: stop signal, grace, SIGKILL. Recorded first."""
        self._request(call, Kind.CANCEL_REQUESTED, facts.CancelRequested(by=requester(via), comment=comment))

    def kill(self, call: str, signal: str = "KILL", via: Via = "api") -> None:
        """Send a call of this runner a signal, by any of its names. Recorded first."""
        try:
            name = signal_name(signal_number(signal))
        except ValueError as error:
            raise UsageError(f"signal: {error}") from None
        self._request(call, Kind.KILL_REQUESTED, facts.KillRequested(by=requester(via), signal=name))

    def cancel_all(self, via: Via = "close") -> None:
        """Cancel every call under way."""
        with self._lock:
            uids = [*self._unborn, *(conductor.uid for conductor in self._live.values())]
        for uid in uids:
            self.cancel(uid, via=via)

    def close(self) -> None:
        """Wait for the calls under way, then let go of everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._slots.shutdown()
        for driver in self._drivers.values():
            driver.close()
        self.sampler.close()
        self._pump.close()
        self.ledger.close()

    def driver(self, name: str) -> Driver:
        """The driver of that name; UsageError when there is none."""
        with self._lock:
            if name not in self._drivers:
                self._drivers[name] = _built_in(name, self._pump, self._labels)
            return self._drivers[name]

    def _carry_out(
        self,
        future: CallFuture,
        spec: Spec,
        record: dict[str, Any],
        driver: Driver,
        pass_on: PassOn | None,
        started: Callable[[], None],
    ) -> None:
        if not future.set_running_or_notify_cancel():
            with self._lock:
                del self._unborn[future.id]
            return
        recorder = Recorder(self.ledger, self.clock, spec.redactor())
        capture = Capture(spec.log_limit, spec.redactor(), self.clock.wall, recorder.output, pass_on)
        conductor = Conductor(future.id, spec, driver, self.sampler, recorder, capture, self.clock, self.tell)
        submitted = facts.Submitted(
            uid=future.id,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            image=spec.image,
            driver=spec.driver,
            spec=record,
            owner=self.owner,
        )

        def conduct() -> Verdict:
            try:
                return conductor.conduct(submitted, started, self.enlist)
            except RefusedError:
                if spec.idempotency_key and (known := self.ledger.keyed(spec.idempotency_key)):
                    future.id = known  # somebody asked for the same call at the same moment
                    return self._follow(future, started)
                raise
            finally:
                self.dismiss(conductor)

        _fulfil(future, conduct)

    def _request(self, call: str, kind: Kind, fact: facts.Fact) -> None:
        with self._lock:
            if call in self._unborn:
                self._unborn[call].append((kind, fact))  # recorded as soon as the call itself is
                return
            found = [call_id for call_id, conductor in self._live.items() if conductor.uid == call]
        if not found:
            return  # it has ended, or is another runner's: nothing of ours is left to stop
        try:
            self.ledger.append(found[0], kind, None, self.clock.wall(), None, fact.dump())
        except RefusedError:
            return  # it has just ended
        except LedgerError:  # that it cannot be recorded must not keep anybody from ending a call
            with self._lock:
                conductor = self._live.get(found[0])
            if conductor is not None:
                conductor.ask(_asked(kind, fact.dump()))
            return
        self._obey()

    def _obey(self) -> None:
        """Carry out what was asked for through the ledger, by us or by others. Called from any thread."""
        with self._lock:
            live = dict(self._live)
        if not live:
            return
        try:
            requests = self.ledger.requests(live)
        except CallsError:
            return  # the file cannot be read just now; the next look finds the same requests
        for request in requests:
            with self._lock:
                fresh = request.seq > self._handled.get(request.call_id, 0)
                self._handled[request.call_id] = max(request.seq, self._handled.get(request.call_id, 0))
            if fresh:
                live[request.call_id].ask(_asked(request.kind, request.data))


def _fulfil(future: CallFuture, conduct: Callable[[], Verdict]) -> None:
    try:
        verdict = conduct()
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the call
        future.set_exception(error)
    else:
        future.set_result(outcome(future.id, verdict))


def _asked(kind: Kind, data: str) -> Asked:
    if kind is Kind.CANCEL_REQUESTED:
        return Asked("cancel")
    return Asked("kill", json.loads(data)["signal"])


def _built_in(name: str, pump: Pump, labels: Labels) -> Driver:
    # Imported when used: a local call need not wait for docker-py, nor the other way round.
    if name == "docker":
        from driver.docker import DockerDriver

        return DockerDriver(pump, labels)
    if name == "local":
        from driver.local import LocalDriver

        return LocalDriver(pump, labels)
    raise UsageError(f"--driver: there is no driver {name!r} (docker or local)")
