"""One container of one call."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from driver.cgroup import CgroupMeter
from driver.docker.engine import freeze, inspect, kill, thaw
from driver.docker.errors import speaking, status
from driver.docker.hearing import SUBSCRIBE_SECONDS, Hearing
from driver.docker.output import Output
from driver.docker.resources import is_missing
from driver.protocol import (
    Beginning,
    Execution,
    Meter,
    Observation,
    OomKilled,
    Preparation,
    Process,
    Sampling,
    Sink,
    Unreadable,
    Unwatched,
    Watcher,
)
from driver.scarcity import frugal
from driver.since import NETWORK, MeterSince
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    import docker

    from driver.docker.driver import DockerDriver
    from driver.docker.stats import StatsStream

_EVENT_SECONDS = 0.1  # the event of a start comes about a millisecond after, or before, the answer
_LOOKS = (0.05, 0.2, 0.5, 1, 2, 5)
_NOT_RUNNING = re.compile("not running|only kill running")  # Docker's words, and Podman's


class DockerContainer(Hearing):
    """See `driver.protocol.Container`. Made by `DockerDriver.prepare` and `recover`."""

    def __init__(
        self, driver: DockerDriver, preparation: Preparation, watcher: Watcher, spec: Spec, since: int | None = None
    ) -> None:
        """The container exists. `since` (ns): another runner made it, and saw what happened up to then."""
        super().__init__(driver, preparation, watcher)
        self._spec = spec
        self._beginning: Beginning | None = None
        self._end_sampling: Callable[[], None] = lambda: None
        self._stream: StatsStream | None = None
        self._totals: Sample | None = None
        self._output = Output(driver, self._id, watcher, tty=spec.tty)
        self._since = since
        self._whole: bool | None = None  # what `rejoin` said
        self._discarded = False
        if since is None:
            self._listen(driver.events, self._event)

    def _unwatched(self, since: int, why: str) -> None:
        over = self._events is None or not self._events.blind
        if over:
            self._output.resume()  # first: with the other news the call may turn out to have ended
        self._watcher.fact(Unwatched(time.time_ns(), since, why, over))

    def start(self) -> Beginning:
        """Attach, then start, once. When no answer comes we look whether it began; it is never asked twice."""
        if self._beginning is None:
            if self._events is not None:
                self._events.wait(SUBSCRIBE_SECONDS)
            self._output.attach(interactive=self._spec.interactive)
            try:
                with self._driver.starting:
                    self._ask_for_start()
                self._start_seen.wait(_EVENT_SECONDS)
                self._beginning = Beginning(self._engine_at, ports=self._published())
            except UnknownOutcomeError:
                seen = self._look()
                self._beginning = Beginning(seen.started_at, seen.pid, seen.ports)
            except DriverError as error:
                # A fault of the engine's own may have come after the deed; a refusal comes before it.
                if (status(error) or 0) < 500 or (seen := self.inspect()).started_at is None:
                    raise
                self._beginning = Beginning(seen.started_at, seen.pid, seen.ports)
        return self._beginning

    def _ask_for_start(self) -> None:
        try:
            with speaking(Reason.START_REFUSED):
                self._client.start(self._id)
        except DriverError as error:
            if not is_missing(error):
                raise
            self._driver.resources.restore(self._id)  # the last one who used the network has just removed it
            with speaking(Reason.START_REFUSED):
                self._client.start(self._id)

    def _published(self) -> dict[str, tuple[str, ...]] | None:
        if self._spec.publish or self._spec.publish_all:
            with contextlib.suppress(DriverError):  # it runs, wherever its ports are
                return self.inspect().ports
        return None

    def _look(self) -> Observation:
        for seconds in _LOOKS:
            time.sleep(seconds)
            try:
                seen = self.inspect()
            except DriverError:  # away or silent: either way it is still unknown
                continue
            if seen.status != "created":
                return seen
        raise UnknownOutcomeError(Reason.LOST, "the engine did not say whether the container was started")

    def rejoin(self) -> bool:
        """Hear of it from now on, and of its past; again: the same answer. See `Output.again` for what comes back."""
        if self._whole is None:
            if self._since is not None:
                self._catch_up(self._since)
            self._whole = self._output.again()
        return self._whole

    def discard(self) -> bool:
        """Remove it without force, since a start may still be under way; what ran after all is not said to have not."""
        seen = self.inspect()
        if seen.status == "gone" or seen.started_at is not None or seen.status != "created":
            return self._discarded
        try:
            with speaking(Reason.ENGINE_LOST):
                self._client.remove_container(self._id, v=True)
        except DriverError as error:
            if status(error) not in (404, 409):
                raise
            return False
        self.close()
        self._remove_parent()
        self._driver.resources.release_of(self._id)
        self._discarded = not self._past(("start",), 1, time.time_ns())
        return self._discarded

    def environment(self) -> dict[str, str]:
        """From the engine's record, as it was prepared or found."""
        return dict(self.preparation.environment)

    def signal(self, name: str) -> bool:
        """Send a signal; False when the container does not run."""
        self._sends(name)
        try:
            kill(self._client, self._id, signal_number(name))
        except DriverError as error:
            if status(error) in (404, 409, 500):
                self._sends(name, -1)
                if status(error) != 500 or _NOT_RUNNING.search(str(error)):
                    return False
            raise
        return True

    def pause(self) -> bool:
        """The engine's freezer; its event reports it."""
        return self._turn(freeze, "paused")

    def resume(self) -> bool:
        """The same, back."""
        return self._turn(thaw, "running")

    def _turn(self, ask: Callable[[docker.APIClient, str], None], wanted: str) -> bool:
        try:
            ask(self._client, self._id)
        except DriverError as error:
            if isinstance(error, UnknownOutcomeError) or status(error) is None:
                raise
            seen = self.inspect().status  # engines have several words and numbers for "it is so already"
            if seen in ("running", "paused") and seen != wanted:
                raise
            return seen == wanted
        return True

    def processes(self) -> list[Process]:
        """What the engine's ps says."""
        from driver.docker.inside import processes

        return processes(self._client, self._id)

    def execute(self, wanted: Execution, output: Callable[[int, bytes], None]) -> int:
        """As `docker exec`."""
        from driver.docker.inside import execute

        return execute(self._client, self._id, wanted, output)

    def resize(self, rows: int, columns: int) -> None:
        """By the engine, which knows whether there is a terminal."""
        with contextlib.suppress(DriverError), speaking(Reason.ENGINE_LOST):
            self._client.resize(self._id, rows, columns)

    def inspect(self) -> Observation:
        """The engine's record."""
        return inspect(self._client, self._id)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """From the control group when it can be seen from here, else from the engine's stream."""
        # Without a network there is nothing to look for in the process' namespace: its pid is not needed.
        known = self._spec.network == "none" and self.preparation.cgroup_parent
        pid = None if known else self.inspect().pid
        group = self._driver.groups.of(self.preparation, pid)
        if group is not None:
            # What goes over the host's own interfaces is not the call's.
            meter = CgroupMeter(self._driver.groups.mounts, group, None if self._spec.network == "host" else pid)
            if meter.visible:
                take = sink if self._spec.memory is None else self._minding(meter, sink)
                self._end_sampling = sampling.add(self._counted(meter), interval, take)
                return interval
            if self.preparation.cgroup_parent:
                return None  # it has ended: an engine that is just cleaning up would take 15 ms to say so
        if (pid or self.inspect().pid) is None:
            return None
        from driver.docker.stats import EVERY, StatsStream

        with frugal():
            self._stream = StatsStream(self._client, self._id, interval, sink)
        return max(interval, EVERY)

    def _minding(self, meter: CgroupMeter, sink: Sink) -> Sink:
        """`sink`, and with each sample a look whether memory has run out: of that, engines tell 19 times in 20."""
        told = False

        def take(at: int, sample: Sample) -> None:
            nonlocal told
            sink(at, sample)
            if not told and meter.oom_kills():
                told = True
                self._watcher.fact(OomKilled(at, "cgroup"))

        return take

    def _counted(self, meter: Meter) -> Meter:
        """The meter, with what it counts that is not the call's taken off."""
        if (self._spec.network or "").startswith("container:"):  # what it has sent before is the other's
            return MeterSince(meter, meter.read() or Sample(), NETWORK)
        return meter

    def totals(self) -> Sample | None:
        """The last reading, from the call's own parent group: exact, whether or not a sample was ever taken."""
        self._end_sampling()
        if self._stream is not None:
            self._stream.stop()
            self._tell_unreadable(self._stream)
        parent = self.preparation.cgroup_parent
        if parent and self._totals is None:
            meter = CgroupMeter(self._driver.groups.mounts, parent)
            self._totals = meter.totals()
            if meter.oom_kills():
                self._watcher.fact(OomKilled(time.time_ns(), "cgroup"))
        return self._totals

    def _tell_unreadable(self, stream: StatsStream) -> None:
        if lost := stream.malformed:
            stream.malformed = 0
            self._watcher.fact(Unreadable(time.time_ns(), stream.began, lost, stream.example))

    def remove(self) -> None:
        """Remove the container, its anonymous volumes and its parent group."""
        self.close()  # first: its destruction is our own doing, and no news
        try:
            with speaking(Reason.ENGINE_LOST):
                self._client.remove_container(self._id, v=True, force=True)
        except DriverError as error:
            if status(error) not in (404, 409):  # else it is gone, or going
                raise
        self._remove_parent()
        self._driver.resources.release_of(self._id)

    def _remove_parent(self) -> None:
        if self.preparation.cgroup_parent:
            self._driver.groups.mounts.remove(self.preparation.cgroup_parent)

    def close(self) -> None:
        """Let go of the connections and the events, and of the parent group if nothing more is to be read there."""
        self._end_sampling()
        if self._totals is not None or self._spec.sample is None:
            self._remove_parent()
        if self._stream is not None:
            self._stream.stop()
        self._forget()
        self._output.close()
