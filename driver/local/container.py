"""One process of one call.

It leads a session and a group of its own. Its end is awaited without taking it: a zombie keeps
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
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from driver import protocol as facts
from driver.local import search
from driver.local.family import NOTHING_TO_RUN_IN, family, stopped, turn
from driver.local.meter import ProcessMeter, own_peak, totals
from driver.local.streams import Stream, feed
from driver.protocol import Beginning, Execution, Observation, Preparation, Process, Sampling, Sink, Watcher
from driver.scarcity import frugal, shortage
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from resource import struct_rusage

    from driver.local.driver import LocalDriver

_REFUSALS = {
    errno.ENOENT: (Reason.START_NOT_FOUND, "no such file or command"),
    errno.ENOTDIR: (Reason.START_NOT_FOUND, "no such file or command"),
    errno.EACCES: (Reason.START_NOT_EXECUTABLE, "permission denied"),
    errno.EPERM: (Reason.START_NOT_EXECUTABLE, "not permitted"),
    errno.ENOEXEC: (Reason.START_NOT_EXECUTABLE, "exec format error"),
}
NOT_ISOLATED = "a local process is not isolated: it can read and write whatever you can, this ledger included"


class LocalContainer:
    """See `driver.protocol.Container`. Made by `LocalDriver.prepare`."""

    def __init__(self, driver: LocalDriver, uid: str, spec: Spec, watcher: Watcher) -> None:
        """Nothing runs yet."""
        self.preparation = preparation_of(uid, spec)
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

    def pause(self) -> bool:
        """Stop the process group (SIGSTOP)."""
        return self._turn("STOP", facts.Froze)

    def resume(self) -> bool:
        """Let it go on (SIGCONT)."""
        return self._turn("CONT", facts.Thawed)

    def _turn(self, name: str, kind: type[facts.Froze | facts.Thawed]) -> bool:
        def turned() -> None:
            self._watcher.fact(kind(self._driver.now()))

        pid, stops = self._alive(), kind is facts.Froze
        return pid is not None and turn(pid, lambda: self.signal(name), turned, stops=stops)

    def _alive(self) -> int | None:
        with self._lock:
            return None if self._process is None or self._end is not None else self._process.pid

    def processes(self) -> list[Process]:
        """The process and its descendants."""
        return [] if (pid := self._alive()) is None else family(pid)

    def execute(self, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
        """There is nothing to run it in."""
        raise DriverError(Reason.START_REFUSED, NOTHING_TO_RUN_IN)

    def resize(self, rows: int, columns: int) -> None:
        """It has no terminal."""

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
            status: Literal["paused", "running"] = "paused" if begun.pid and stopped(begun.pid) else "running"
            return Observation(status, started_at=begun.engine_at, pid=begun.pid)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """Sample the process and its children. One that has not started, or has ended, gives no samples."""
        self._end_sampling()
        with self._lock:
            if self._process is None or self._end is not None:
                return None
            self._meter = ProcessMeter(self._process.pid)
        self._end_sampling = sampling.add(self._meter, interval, sink)
        return interval

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


def name_of(uid: str) -> str:
    """What stands for a container id."""
    return f"local:{uid}"


def preparation_of(uid: str, spec: Spec) -> Preparation:
    """What there is to say of a process before it begins."""
    return Preparation(container=name_of(uid), stop_signal=spec.stop_signal or "TERM", warnings=(NOT_ISOLATED,))


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
