"""The runner: carries out calls, any number at once, and records each in the ledger."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from calls.admission import Admission
from calls.capture import PassOn
from calls.clock import Clock, SystemClock
from calls.conduct import Auth, Conductor, Tell
from calls.identity import new_id, owner, requester
from calls.outcome import Call
from calls.roster import Roster
from calls.settings import fingerprinter, ledger_path
from calls.slots import CallFuture, Slots
from calls.waiting import Order, Waiting, WaitingRoom
from driver import registry
from driver.protocol import Driver, Labels
from driver.pump import Pump
from driver.sampler import Sampler
from driver.standing import Standing, together
from ledger.ledger import Ledger
from machine import facts
from machine.errors import SpecError, UsageError
from machine.signals import signal_name, signal_number
from machine.spec import EMPTY, Spec

if TYPE_CHECKING:
    from calls.cleaner import Cleaner
    from calls.metrics import Exporter
    from machine.secrets import Redactor

MAX_CALLS = 256

Via = Literal["api", "cli", "interrupt", "terminate", "close"]


class Runner:
    """Runs calls. Use it as a context manager; leaving it waits for the calls under way.

    Thread-safe. Raises UsageError for a wrong option and LedgerError for an unusable ledger, both before
    anything is done; how a call ended is a state, never an exception.

    At most `max_calls` are carried out at once, and with `memory` (bytes, or "4g") or `cpus` no more than what
    fits into these together by its own limits. The others wait, first come, first served: see `calls.admission`.
    With an `image_limit` (bytes, or "10g") images that calls have used are removed after calls, least recently
    used first, but those in `image_exempt`, in use, or known to no registry: see `calls.cleaning`.
    `pool` is how many network namespaces are kept ready, of `pool_networks` in turn, each by a container of
    `pool_image`; calls that want one of these networks, and nothing of it for themselves, join one. With
    `pool_once` a namespace serves one call only.
    `metrics_port` is where figures for Prometheus are served, [ADDRESS:]PORT, at `metrics_url` (0: any free port).
    With `recover`, calls in the ledger whose runner is gone are settled, in a process of its own.
    """

    def __init__(
        self,
        ledger: str | Path | None = None,
        *,
        max_calls: int = MAX_CALLS,
        memory: str | int | None = None,
        cpus: float | None = None,
        clock: Clock | None = None,
        drivers: Iterable[Driver] = (),
        tell: Tell = lambda _, __: None,
        recover: bool = True,
        metrics_port: int | str | None = None,
        image_limit: str | int | None = None,
        image_exempt: Iterable[str] = (),
        pool: int = 0,
        pool_networks: Iterable[str] = ("bridge",),
        pool_once: bool = False,
        pool_image: str = "busybox",
    ) -> None:
        """`ledger`: the file (default: CALLS_LEDGER, else by XDG). `drivers` add to or replace the built-in ones."""
        self.clock = clock or SystemClock()
        self.admission = Admission(max_calls, memory, cpus, self.clock.monotonic)
        self._exporter = None if metrics_port is None else self._export(metrics_port)
        warm = None
        if pool:
            from driver.docker.warm import planned

            warm = planned(pool, pool_networks, once=pool_once, image=pool_image)
        self._pid = os.getpid()
        self.tell = tell
        self.cleaner = self._clean_images(image_limit, image_exempt)
        self.roster = Roster(self.clock)
        self._lock = threading.Lock()
        self.id = new_id()
        self.owner = owner(self.id)
        self.ledger = Ledger(ledger_path(ledger), self.roster.obey, self.owner, self._warn, attend=warm is not None)
        self.roster.ledger = self.ledger
        self._labels = Labels(self.ledger.id, self.id)
        self._pump = Pump()
        self.sampler = Sampler()
        self._drivers: dict[str, Driver] = {driver.name: driver for driver in drivers}
        if warm is not None and "docker" not in self._drivers:
            from driver.docker import DockerDriver

            self._drivers["docker"] = self._attended(DockerDriver(self._pump, self._labels, warm, self._warn))
        self.slots = Slots(self, max_calls)
        self._room = WaitingRoom(self, lambda waiting: self.slots.begin(waiting.order, waiting.ticket, waiting))
        self._closed = False
        if self._exporter is not None:
            self._serve(self._exporter)
        if recover:
            self._succeed()

    @property
    def metrics_url(self) -> str | None:
        """Where figures are served; None without a `metrics_port`."""
        return None if self._exporter is None else self._exporter.url

    def _export(self, port: int | str) -> Exporter:
        from calls.metrics import Exporter

        return Exporter(self, port)

    def _serve(self, exporter: Exporter) -> None:
        try:
            exporter.serve()
        except BaseException:
            self.close()
            raise

    def _attended(self, driver: Driver) -> Driver:
        if self._exporter is not None and hasattr(driver, "measure"):
            driver.measure = self._exporter.measure
        if hasattr(driver, "room"):
            driver.room = self.admission.room
        return driver

    def _warn(self, line: str) -> None:
        self.tell(f"warning: {line}", True)

    def _succeed(self) -> None:
        unsettled = self.ledger.unsettled()
        if unsettled:  # else there is no need to load all this
            from calls.orphans import orphans, summon

            if orphans(unsettled, self.clock.wall()):
                summon(self.ledger.path)

    def _clean_images(self, limit: str | int | None, exempt: Iterable[str]) -> Cleaner | None:
        if limit is None:
            if exempt:
                raise UsageError("image_exempt: needs an image_limit")
            return None
        from calls.cleaner import Cleaner

        return Cleaner(self, limit, exempt)

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
        """Begin a call and return at once. Wrong options raise here, before anything is recorded.

        While it has to wait it is `preparing`, and its time to prepare has not begun.

        `output` gets (stream, bytes), in the thread that reads the output of all calls: it must not wait for one. What
        it raises goes to `threading.excepthook`, and it gets no more. `auth` has, or gives, credentials (see
        `calls.conduct.Auth`), never recorded.
        """
        from calls.options import build_spec  # with pydantic behind it; who has a spec need not load that

        pass_on, auth = options.pop("output", None), options.pop("auth", None)
        if not (pass_on is None or callable(pass_on)):
            raise SpecError("output", "give a function of stream and bytes")
        if not (auth is None or callable(auth) or isinstance(auth, Mapping)):
            raise SpecError("auth", "give a dict, or a function of the registry's host")
        return self.submit_spec(build_spec(image, command, **options), pass_on, auth=auth)

    def submit_spec(
        self,
        spec: Spec,
        pass_on: PassOn | None = None,
        started: Callable[[], None] = lambda: None,
        *,
        auth: Auth = None,
    ) -> CallFuture:
        """As `submit`, for a spec. `pass_on` gets (stream, bytes); `started` is called when the process runs."""
        if self._closed or self._forked():
            raise UsageError("this runner is closed" if self._closed else "a runner cannot be used after a fork")
        driver = self.driver(spec.driver)
        driver.check(spec)
        need = self.admission.need(spec)
        future = CallFuture(new_id())
        inherited: Mapping[str, str] = getattr(driver, "inherited", EMPTY)
        redactor = spec.redactor(inherited)
        if spec.idempotency_key and redactor.text(spec.idempotency_key) != spec.idempotency_key:
            raise SpecError("idempotency_key", "has a secret's value in it, and is recorded as it is; choose another")
        submitted = self._submitted(future.id, spec, redactor)
        order = Order(future, spec, submitted, driver, pass_on, started, auth, redactor)
        if spec.idempotency_key and (known := self.ledger.keyed(spec.idempotency_key)):
            self.slots.follow(order, known)
            return future
        self.roster.expect(future.id)
        ticket = self.admission.ask(need, self._room.turn)
        if ticket.lacking:
            self._room.receive(order, ticket)
        else:
            self.slots.begin(order, ticket)
        return future

    def _submitted(self, uid: str, spec: Spec, redactor: Redactor) -> facts.Submitted:
        return facts.Submitted(
            uid=uid,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            image=spec.image,
            driver=spec.driver,
            spec=spec.record(fingerprinter(self.ledger.id), redactor),
            owner=self.owner,
        )

    def dismiss(self, conductor: Conductor | Waiting) -> None:
        """Nothing more is done about the conductor's call."""
        self.roster.dismiss(conductor)
        if self.cleaner is not None and conductor.spec.driver == "docker":
            self.cleaner.nudge()

    def cancel(self, call: str, comment: str | None = None, via: Via = "api") -> None:
        """End a call of this runner in good order: stop signal, grace, SIGKILL. Recorded first.

        SpecError for a `comment` that is no text, or not UTF-8.
        """
        if comment is not None:
            if not isinstance(comment, str):
                raise SpecError("comment", "give a text")
            from machine import notation
            from machine.configuration import check_text

            check_text("comment", comment, notation.text)
        self.roster.request(call, facts.CancelRequested(by=requester(via), comment=comment))

    def kill(self, call: str, signal: str = "KILL", via: Via = "api") -> None:
        """Send a call of this runner a signal, by any of its names. Recorded first."""
        self.roster.request(call, facts.KillRequested(by=requester(via), signal=_signal(signal)))

    def signal(self, call: str, signal: str) -> None:
        """As `kill`, for a message: the call ends of it only if its exit code says so. NotRunningError unless it runs.

        As all that is asked of a call it is carried out in a moment, by the call's own thread.
        """
        self.roster.request_running(call, facts.SignalRequested(by=requester("api"), signal=_signal(signal)))

    def pause(self, call: str) -> None:
        """Freeze all processes of a call of this runner. Recorded first. NotRunningError unless it runs."""
        self.roster.request_running(call, facts.PauseRequested(by=requester("api")))

    def resume(self, call: str) -> None:
        """Let them go on. Recorded first. NotRunningError unless the call runs."""
        self.roster.request_running(call, facts.ResumeRequested(by=requester("api")))

    def resize(self, call: str, rows: int, columns: int) -> None:
        """Set the size of the terminal of a call of this runner; where there is none nothing happens. Not recorded."""
        conductor = self.roster.find(call)
        if isinstance(conductor, Conductor):
            conductor.resize(rows, columns)

    def cancel_all(self, via: Via = "close") -> None:
        """Cancel every call under way, the last one first: nobody is to begin in the place of one that ends.

        Nothing in a forked child, whose calls they are not.
        """
        if self._forked():
            return
        self.roster.request_all(facts.CancelRequested(by=requester(via)), self.id)

    def close(self) -> None:
        """Wait for the calls under way, then let go of everything. Idempotent.

        Nothing in a forked child: the threads that it would wait for are not there, and the rest is its parent's.
        """
        if self._closed or self._forked():
            return
        self._closed = True
        self.admission.drain()
        self.slots.finish()
        self._room.close()
        self.slots.close()
        if self._exporter is not None:
            self._exporter.close()
        if self.cleaner is not None:
            self.cleaner.close()
        for driver in self._drivers.values():
            driver.close()
        self.sampler.close()
        self._pump.close()
        self.ledger.close()

    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def standing(self) -> Standing:
        """What its drivers keep ready for calls."""
        with self._lock:
            drivers = list(self._drivers.values())
        return together(driver.standing() for driver in drivers if hasattr(driver, "standing"))

    def drivers(self) -> list[str]:
        """The names of all drivers that this runner could use."""
        return list(dict.fromkeys((*self._drivers, *registry.names())))

    def driver(self, name: str) -> Driver:
        """The driver of that name; UsageError when there is none, or it cannot be used."""
        with self._lock:
            if name not in self._drivers:
                self._drivers[name] = self._attended(registry.make(name, self._pump, self._labels))
            return self._drivers[name]


def _signal(name: str) -> str:
    try:
        return signal_name(signal_number(name))
    except ValueError as error:
        raise UsageError(f"signal: {error}") from None
