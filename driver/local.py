"""A call as a process of this host: no image, no isolation, the same record.

The process leads a session and a group of its own. Its end is awaited without taking it: a zombie keeps
its number, so that neither a signal nor the end of what is left of its group can hit a stranger. Then
wait4 takes it, with its exact usage. What calls setsid escapes, and may hold the output open. Whatever
watches a process is there before it is: none starts that could not be awaited.
"""

from __future__ import annotations

import errno
import os
import queue
import signal as signals
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from driver import local_search as search
from driver import protocol as facts
from driver.local_meter import ProcessMeter, own_peak, totals
from driver.local_streams import Stream, feed
from driver.protocol import Beginning, Labels, Leftover, Observation, Preparation, Sampling, Sink, Trace, Watcher
from driver.pump import Pump
from driver.scarcity import frugal, shortage
from machine.errors import DriverError, SpecError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from resource import struct_rusage

    from driver.local_adopted import AdoptedContainer

HONOURED = frozenset(("driver", "command", "name", "env", "secret", "label", "workdir", "interactive"))
HONOURED |= {
    "stop_signal",
    "stop_timeout",
    "timeout",
    "prepare_timeout",
    "sample",
    "log_limit",
    "keep",
    "idempotency_key",
}
"""The options of a spec that mean something for a process of this host."""

_REFUSALS = {
    errno.ENOENT: (Reason.START_NOT_FOUND, "no such file or command"),
    errno.ENOTDIR: (Reason.START_NOT_FOUND, "no such file or command"),
    errno.EACCES: (Reason.START_NOT_EXECUTABLE, "permission denied"),
    errno.EPERM: (Reason.START_NOT_EXECUTABLE, "not permitted"),
    errno.ENOEXEC: (Reason.START_NOT_EXECUTABLE, "exec format error"),
}


NOT_ISOLATED = "a local process is not isolated: it can read and write whatever you can, this ledger included"


class LocalDriver:
    """Processes of this host."""

    name = "local"

    def __init__(self, pump: Pump, labels: Labels, now: Callable[[], int] = time.time_ns) -> None:
        """`pump` reads the output and outlives the driver; `now` is the clock of the facts (ns, UTC)."""
        self.pump = pump
        self.now = now
        self._labels = labels
        self._containers: WeakValueDictionary[str, LocalContainer] = WeakValueDictionary()

    def check(self, spec: Spec) -> None:
        """SpecError without a command, with an image, or for what only an engine can do."""
        spec.require(HONOURED, self.name)
        if not spec.command:
            raise SpecError("command", "no command given")

    def prepare(self, uid: str, spec: Spec, watcher: Watcher) -> LocalContainer:
        """Look whether the working directory is there. A call prepared before keeps its container."""
        if spec.workdir and not os.path.isdir(spec.workdir):
            raise DriverError(Reason.CREATE_REFUSED, f"{spec.workdir}: no such folder")
        return self._containers.setdefault(uid, LocalContainer(self, uid, spec, watcher))

    def recover(self, uid: str, spec: Spec, watcher: Watcher, trace: Trace) -> AdoptedContainer | None:
        """The process of this call, if it lives: one that has ended, or never began, has left nothing to find."""
        if trace.pid is not None:
            candidates = [found] if (found := search.read(trace.pid)) else []
        else:
            candidates = sorted(search.marked(self._labels.ledger, uid), key=lambda one: one.began)
        for found in candidates:  # whatever it started that leads a session, too, is younger
            if found.leads and (found.ledger, found.uid) == (self._labels.ledger, uid):
                from driver.local_adopted import AdoptedContainer

                return AdoptedContainer(self, found, _preparation(uid, spec), watcher)
        return None

    def leftovers(self) -> list[Leftover]:
        """The processes that runners of this ledger started; what these started in their turn is not ours to end."""
        now = self.now()
        return [
            Leftover(found.uid, found.runner, _name(found.uid), "running", found.began_at(now))
            for found in search.marked(self._labels.ledger)
            if found.leads and found.flagged
        ]

    def reap(self, leftover: Leftover) -> None:
        """With its process group."""
        from driver.local_adopted import end

        for found in search.marked(self._labels.ledger, leftover.uid):
            if found.leads and found.flagged:
                end(found)

    def environment(self, uid: str, spec: Spec) -> dict[str, str]:
        """Our own environment, the call's labels (`CALL_LEDGER_CALL` and so on), and what the spec sets."""
        return {**os.environ, **search.marks(self._labels.of(uid)), **spec.env}

    def describe(self) -> dict[str, Any]:
        """For `calls doctor`: a host is always there."""
        return {"driver": self.name, "isolation": "none", "samples": "psutil", "totals": True}

    def close(self) -> None:
        """Let go of all containers; the processes go on. Idempotent."""
        for container in list(self._containers.values()):
            container.close()


class LocalContainer:
    """See `driver.protocol.Container`. Made by `LocalDriver.prepare`."""

    def __init__(self, driver: LocalDriver, uid: str, spec: Spec, watcher: Watcher) -> None:
        """Nothing runs yet."""
        self.preparation = _preparation(uid, spec)
        self._driver = driver
        self._uid = uid
        self._spec = spec
        self._watcher = watcher
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._beginning: Beginning | None = None
        self._end: facts.Died | facts.Unwatched | None = None
        self._ended = threading.Event()
        self._removed = False
        self._usage: struct_rusage | None = None
        self._parent_peak = 0
        self._streams: list[Stream] = []
        self._open_streams = 2
        self._meter: ProcessMeter | None = None
        self._end_sampling: Callable[[], None] = lambda: None

    def start(self) -> Beginning:
        """Start the process, once; again: the same Beginning. A refused start may be tried again."""
        with self._lock:
            if self._beginning is None:
                with ExitStack() as unless_started, frugal():
                    watching = _prepared_thread("wait4", unless_started)
                    feeding = _prepared_thread("stdin", unless_started) if self._spec.interactive else None
                    self._driver.pump.open()
                    self._process = self._spawn()
                    unless_started.pop_all()
                self._parent_peak = own_peak()  # not before: it began with at most this much of our memory
                begun = self._driver.now()
                self._beginning = Beginning(begun, self._process.pid)
                self._connect(self._process, begun, watching, feeding)
            return self._beginning

    def rejoin(self) -> bool:
        """It is not another's: there is nothing to take over."""
        return False

    def discard(self) -> bool:
        """It is gone, unless it was started."""
        with self._lock:
            self._removed |= self._beginning is None
            return self._beginning is None

    def environment(self) -> dict[str, str]:
        """What it starts, or started, with."""
        return self._driver.environment(self._uid, self._spec)

    def _spawn(self) -> subprocess.Popen[bytes]:
        spec = self._spec
        if self._removed:
            raise DriverError(Reason.START_REFUSED, f"{spec.command[0]}: removed before it was started")
        # A process inherits what its thread holds back: a stop signal would never reach it.
        held = signals.pthread_sigmask(signals.SIG_SETMASK, ())
        try:
            process = subprocess.Popen(
                spec.command,
                bufsize=0,
                stdin=subprocess.PIPE if spec.interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=spec.workdir,
                env=self._driver.environment(self._uid, spec),
                start_new_session=True,
            )
            search.flag(process.pid)
            return process
        except OSError as error:
            raise _refusal(error, spec) from error
        finally:
            signals.pthread_sigmask(signals.SIG_SETMASK, held)

    def _connect(
        self, process: subprocess.Popen[bytes], begun: int, watching: _Thread, feeding: _Thread | None
    ) -> None:
        # It is not taken before start() lets go of the lock: until then the number is its own.
        watching(partial(self._await_end, process, begun))
        pipes = ((facts.STDOUT, process.stdout), (facts.STDERR, process.stderr))
        self._streams = [Stream(pipe, number, self._output) for number, pipe in pipes if pipe is not None]
        for stream in self._streams:
            self._driver.pump.add(stream)
        if process.stdin is not None and feeding is not None:
            feeding(partial(feed, process.stdin))

    def _output(self, stream: int, data: bytes) -> None:
        # Called by the pump: one thread, no lock.
        if data:
            self._watcher.output(stream, data)
            return
        self._open_streams -= 1
        if not self._open_streams:
            self._watcher.fact(facts.OutputEnded(self._driver.now()))

    def _await_end(self, process: subprocess.Popen[bytes], begun: int) -> None:
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            at = self._driver.now()
            with self._lock:
                _kill_group(process.pid)
                _, status, self._usage = os.wait4(process.pid, 0)
                code = os.waitstatus_to_exitcode(status)
                signal = -code if code < 0 else None
                self._end = facts.Died(at, 128 + signal if signal else code, "wait4", signal)
        except ChildProcessError:
            why = "the process was waited for elsewhere, or SIGCHLD is ignored: its exit code is lost"
            self._end = facts.Unwatched(self._driver.now(), begun, why)
        process.returncode = 0  # so that subprocess does not wait for it as well; nobody reads this
        self._ended.set()
        self._watcher.fact(self._end)

    def signal(self, name: str) -> bool:
        """Send a signal to the process group; False when the process has ended, or was not started."""
        with self._lock:
            if self._process is None or self._end is not None:
                return False
            pid = self._process.pid
            try:
                # A zombie takes every signal and answers none.
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return False
                os.killpg(pid, signal_number(name))
            except (ChildProcessError, ProcessLookupError):
                return False
            except OSError as error:
                raise DriverError(Reason.RUNNER_FAULT, f"SIG{name}: {error.strerror}") from error
            return True

    def inspect(self) -> Observation:
        """From memory; `gone` once removed, or when the exit code is lost."""
        with self._lock:
            begun, end = self._beginning, self._end
            if self._removed or isinstance(end, facts.Unwatched):
                return Observation("gone")
            if begun is None:
                return Observation("created")
            if end is not None:
                return Observation("exited", end.exit_code, begun.engine_at, end.at)
            return Observation("running", started_at=begun.engine_at, pid=begun.pid)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> None:
        """Sample the process and its children. One that has not started, or has ended, gives no samples."""
        self._end_sampling()
        with self._lock:
            if self._process is None or self._end is not None:
                return
            self._meter = ProcessMeter(self._process.pid)
        self._end_sampling = sampling.add(self._meter, interval, sink)

    def totals(self) -> Sample | None:
        """CPU time, exact, and peak memory where known, once ended; before, a reading, or None."""
        self._end_sampling()
        if self._usage is None:
            return self._meter.read() if self._meter else None
        return totals(self._usage, self._parent_peak, self._meter)

    def remove(self) -> None:
        """Kill what still lives of the process group; close. UnknownOutcomeError when it does not end."""
        self.close()
        with self._lock:
            self._removed = True
            if self._process is not None and self._end is None:
                _kill_group(self._process.pid)
        if self._process is not None and not self._ended.wait(timeout=5):
            raise UnknownOutcomeError(Reason.LOST, f"process {self._process.pid} was killed and did not end")

    def close(self) -> None:
        """Stop sampling and reading output. A process that goes on writing gets SIGPIPE."""
        self._end_sampling()
        while self._streams:
            self._driver.pump.drop(self._streams.pop())


_Thread = Callable[[Callable[[], None] | None], None]


def _prepared_thread(name: str, unless: ExitStack) -> _Thread:
    """A thread that waits already for the one thing that it is to do; `unless` ends it without."""
    work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def wait() -> None:
        if (act := work.get()) is not None:
            act()

    threading.Thread(target=wait, name=name, daemon=True).start()
    unless.callback(work.put, None)
    return work.put


def _name(uid: str) -> str:
    return f"local:{uid}"


def _preparation(uid: str, spec: Spec) -> Preparation:
    return Preparation(container=_name(uid), stop_signal=spec.stop_signal or "TERM", warnings=(NOT_ISOLATED,))


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone, or another user's
        os.killpg(pid, signals.SIGKILL)


def _refusal(error: OSError, spec: Spec) -> DriverError:
    if (missing := "no process more is allowed" if error.errno == errno.EAGAIN else shortage(error)) is not None:
        return DriverError(Reason.RESOURCES, f"{spec.command[0]}: {missing}")
    if error.filename == spec.workdir != spec.command[0]:
        return DriverError(Reason.START_REFUSED, f"{spec.workdir}: {error.strerror}")
    reason, words = _REFUSALS.get(error.errno or 0, (Reason.START_REFUSED, str(error.strerror).lower()))
    return DriverError(reason, f"{spec.command[0]}: {words}")
