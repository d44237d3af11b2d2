"""The process of a call whose runner is gone.

It is nobody's child any more that we could wait for: when it ends, that is seen, but its exit code is lost.
Its output went to its runner and ends with it: most programs do not survive the next thing they print.
"""

from __future__ import annotations

import os
import select
import signal as signals
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from driver.local import search
from driver.local.family import NOTHING_TO_RUN_IN, family, stopped, turn
from driver.local.meter import ProcessMeter
from driver.protocol import (
    Beginning,
    Execution,
    Froze,
    Observation,
    OutputEnded,
    Preparation,
    Process,
    Sampling,
    Sink,
    Thawed,
    Watcher,
)
from driver.scarcity import frugal
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_number
from machine.states import Reason

if TYPE_CHECKING:
    from driver.local.driver import LocalDriver

_LAST_SECONDS = 5


class AdoptedContainer:
    """See `driver.protocol.Container`. Made by `LocalDriver.recover`."""

    def __init__(self, driver: LocalDriver, found: search.Marked, preparation: Preparation, watcher: Watcher) -> None:
        """It runs, or did a moment ago."""
        self.preparation = preparation
        self._driver = driver
        self._found = found
        self._watcher = watcher
        self._beginning = Beginning(found.began_at(driver.now()), found.pid)
        self._end: _End | None = None
        self._rejoined = False
        self._removed = False
        self._meter: ProcessMeter | None = None
        self._end_sampling: Callable[[], None] = lambda: None

    @property
    def _lives(self) -> bool:
        return search.lives(self._found.pid, self._found.began)

    def start(self) -> Beginning:
        """It was started."""
        return self._beginning

    def rejoin(self) -> bool:
        """Watch for its end, which is reported as that of its output; there is no output."""
        if not self._rejoined:
            with frugal(), suppress(ProcessLookupError):
                self._end = _End(os.pidfd_open(self._found.pid), self._ended)
            self._rejoined = True
            if self._end is None or not self._lives:  # the number may be another's by now
                self.close()
                self._ended()
            else:
                with frugal():
                    self._driver.pump.add(self._end)
        return False

    def _ended(self) -> None:
        self._sweep()
        self._watcher.fact(OutputEnded(self._driver.now()))

    def discard(self) -> bool:
        """It was started."""
        return False

    def environment(self) -> dict[str, str]:
        """As it began; of the memory that a process may have written over since."""
        return self._found.environment

    def signal(self, name: str) -> bool:
        """Send a signal to the process group; False when the process has ended."""
        if not self._lives:
            return False
        try:
            os.killpg(self._found.group, signal_number(name))
        except ProcessLookupError:
            return False
        except OSError as error:
            raise DriverError(Reason.RUNNER_FAULT, f"SIG{name}: {error.strerror}") from error
        return True

    def pause(self) -> bool:
        """Stop the process group (SIGSTOP)."""
        return self._turn("STOP", Froze)

    def resume(self) -> bool:
        """Let it go on (SIGCONT)."""
        return self._turn("CONT", Thawed)

    def _turn(self, name: str, kind: type[Froze | Thawed]) -> bool:
        def turned() -> None:
            self._watcher.fact(kind(self._driver.now()))

        return self._lives and turn(self._found.pid, lambda: self.signal(name), turned, stops=kind is Froze)

    def processes(self) -> list[Process]:
        """The process and its descendants."""
        return family(self._found.pid) if self._lives else []

    def execute(self, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
        """There is nothing to run it in."""
        raise DriverError(Reason.START_REFUSED, NOTHING_TO_RUN_IN)

    def resize(self, rows: int, columns: int) -> None:
        """It has no terminal."""

    def inspect(self) -> Observation:
        """It runs, or is gone: how it ended nobody knows."""
        if self._removed or not self._lives:
            return Observation("gone")
        status: Literal["paused", "running"] = "paused" if stopped(self._found.pid) else "running"
        return Observation(status, started_at=self._beginning.engine_at, pid=self._found.pid)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """Sample the process and its children."""
        self._end_sampling()
        if not self._lives:
            return None
        self._meter = ProcessMeter(self._found.pid)
        self._end_sampling = sampling.add(self._meter, interval, sink)
        return interval

    def totals(self) -> Sample | None:
        """A reading while it runs; None afterwards."""
        self._end_sampling()
        return self._meter.read() if self._meter else None

    def remove(self) -> None:
        """Kill what still lives of the process group. UnknownOutcomeError when it does not end."""
        self.close()
        self._removed = True
        end(self._found)
        self._sweep()

    def _sweep(self) -> None:
        # The group's number is its own only as long as somebody is in it: so each is asked.
        for one in search.marked(self._found.ledger, self._found.uid):
            if one.group == self._found.group:
                with suppress(OSError):
                    os.kill(one.pid, signals.SIGKILL)

    def close(self) -> None:
        """End sampling, and the watch for its end."""
        self._end_sampling()
        if self._end is not None:
            self._driver.pump.drop(self._end)


class _End:
    """The end of a process, as a source for the pump."""

    def __init__(self, descriptor: int, ended: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._ended = ended

    def fileno(self) -> int:
        return self._descriptor

    def ready(self) -> bool:
        self._ended()
        return False

    def close(self) -> None:
        os.close(self._descriptor)


def end(found: search.Marked) -> None:
    """Kill a process and its group, and wait for its end. UnknownOutcomeError when that does not come."""
    try:
        descriptor = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return
    try:
        if search.lives(found.pid, found.began):
            with suppress(OSError):
                os.killpg(found.group, signals.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(_LAST_SECONDS * 1000):
                raise UnknownOutcomeError(Reason.LOST, f"process {found.pid} was killed and did not end")
    finally:
        os.close(descriptor)
