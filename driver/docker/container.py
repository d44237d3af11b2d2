"""One container of one call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from driver.cgroup import CgroupMeter
from driver.docker.engine import inspect
from driver.docker.errors import speaking, status
from driver.docker.streams import Attachment
from driver.protocol import (
    Beginning,
    Destroyed,
    Died,
    ForeignSignal,
    Froze,
    HealthStatus,
    Observation,
    OomKilled,
    OutputEnded,
    Preparation,
    Sampling,
    Sink,
    Thawed,
    Unwatched,
    Watcher,
)
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_name, signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver
    from driver.docker.stats import StatsStream

_SUBSCRIBE_SECONDS = 10
_EVENT_SECONDS = 0.1  # the event of a start comes about a millisecond after, or before, the answer
_LOOKS = (0.05, 0.2, 0.5, 1, 2, 5)


class DockerContainer:
    """See `driver.protocol.Container`. Made by `DockerDriver.prepare`."""

    def __init__(self, driver: DockerDriver, preparation: Preparation, watcher: Watcher, spec: Spec) -> None:
        """The container exists and was not started by us yet."""
        self.preparation = preparation
        self._driver = driver
        self._client = driver.client
        self._id = preparation.container
        self._watcher = watcher
        self._spec = spec
        self._beginning: Beginning | None = None
        self._attachment: Attachment | None = None
        self._engine_at: int | None = None
        self._start_seen = threading.Event()
        self._own_signals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._end_sampling: Callable[[], None] = lambda: None
        self._stream: StatsStream | None = None
        self._totals: Sample | None = None
        self._events = driver.events  # kept: asking for it after the driver was closed would make another
        self._events.listen(
            self._id, self._event, lambda since, why: watcher.fact(Unwatched(time.time_ns(), since, why))
        )

    def start(self) -> Beginning:
        """Attach, then start, once. When no answer comes we look whether it began; it is never asked twice."""
        if self._beginning is None:
            self._events.wait(_SUBSCRIBE_SECONDS)
            self._attach()
            try:
                with self._driver.starting, speaking(Reason.START_REFUSED):
                    self._client.start(self._id)
                self._start_seen.wait(_EVENT_SECONDS)
                self._beginning = Beginning(self._engine_at)
            except UnknownOutcomeError:
                seen = self._look()
                self._beginning = Beginning(seen.started_at, seen.pid)
        return self._beginning

    def _attach(self) -> None:
        with speaking(Reason.START_REFUSED):
            params = {"stdin": int(self._spec.interactive), "stdout": 1, "stderr": 1, "stream": 1}
            raw = self._client.attach_socket(self._id, params=params)
        self._attachment = Attachment(
            raw, self._watcher.output, lambda: self._watcher.fact(OutputEnded(time.time_ns()))
        )
        self._driver.pump.add(self._attachment)
        if self._spec.interactive:
            self._attachment.feed()

    def _look(self) -> Observation:
        for seconds in _LOOKS:
            time.sleep(seconds)
            try:
                seen = self.inspect()
            except UnknownOutcomeError:
                continue
            if seen.status != "created":
                return seen
        raise UnknownOutcomeError(Reason.LOST, "the engine did not say whether the container was started")

    def signal(self, name: str) -> bool:
        """Send a signal; False when the container does not run."""
        with self._lock:
            self._own_signals[str(signal_number(name))] += 1
        try:
            with speaking(Reason.ENGINE_LOST):
                self._client.kill(self._id, signal=signal_number(name))
        except DriverError as error:
            if status(error) in (404, 409, 500):
                with self._lock:
                    self._own_signals[str(signal_number(name))] -= 1
                if status(error) != 500 or "not running" in str(error):
                    return False
            raise
        return True

    def inspect(self) -> Observation:
        """The engine's record."""
        return inspect(self._client, self._id)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> None:
        """From the control group when it can be seen from here, else from the engine's stream."""
        # Without a network there is nothing to look for in the process' namespace: its pid is not needed.
        known = self._spec.network == "none" and self.preparation.cgroup_parent
        pid = None if known else self.inspect().pid
        group = self._driver.group_of(self.preparation, pid)
        if group is not None:
            meter = CgroupMeter(self._driver.mounts, group, pid)
            if meter.visible:
                self._end_sampling = sampling.add(meter, interval, sink)
                return
        if (pid or self.inspect().pid) is not None:
            from driver.docker.stats import StatsStream

            self._stream = StatsStream(self._client, self._id, interval, sink)

    def totals(self) -> Sample | None:
        """The last reading, from the call's own parent group: exact, whether or not a sample was ever taken."""
        self._end_sampling()
        if self._stream is not None:
            self._stream.stop()
        parent = self.preparation.cgroup_parent
        if parent and self._totals is None:
            meter = CgroupMeter(self._driver.mounts, parent)
            self._totals = meter.totals()
            if meter.oom_kills():
                self._watcher.fact(OomKilled(time.time_ns(), "cgroup"))
        return self._totals

    def remove(self) -> None:
        """Remove the container, its anonymous volumes and its parent group."""
        self.close()  # first: its destruction is our own doing, and no news
        try:
            with speaking(Reason.ENGINE_LOST):
                self._client.remove_container(self._id, v=True, force=True)
        except DriverError as error:
            if status(error) not in (404, 409):  # else it is gone, or going
                raise
        if self.preparation.cgroup_parent:
            self._driver.mounts.remove(self.preparation.cgroup_parent)

    def close(self) -> None:
        """Let go of the connection and the events."""
        self._end_sampling()
        self._events.forget(self._id)
        if self._attachment is not None:
            self._driver.pump.drop(self._attachment)

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        tell = self._watcher.fact
        match action.split(":", maxsplit=1)[0]:
            case "start":
                self._engine_at = at
                self._start_seen.set()
            case "die":
                tell(Died(at, int(attributes.get("exitCode", "255")), "die"))
            case "oom":
                tell(OomKilled(at))
            case "kill" if not self._ours(attributes.get("signal", "9")):
                tell(ForeignSignal(at, signal_name(int(attributes.get("signal", "9")))))
            case "stop":  # we never ask for a stop: we send the signals of one
                tell(ForeignSignal(at, self.preparation.stop_signal, stop=True))
            case "pause":
                tell(Froze(at))
            case "unpause":
                tell(Thawed(at))
            case "destroy":
                tell(Destroyed(at))
            case "health_status":
                tell(HealthStatus(at, action.partition(":")[2].strip()))

    def _ours(self, signal: str) -> bool:
        with self._lock:
            mine = self._own_signals[signal] > 0
            self._own_signals[signal] -= mine
        return mine
