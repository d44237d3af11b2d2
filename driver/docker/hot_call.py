"""One call in a hot container: what is the same however its command is carried out.

Most are carried out by the container's shell (`hot_shell`); one that reads our input, by the engine (`hot_exec`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from driver.cgroup import CgroupMeter
from driver.docker.container import DockerContainer
from driver.docker.engine import look
from driver.docker.hearing import SUBSCRIBE_SECONDS
from driver.docker.hot import HotSet
from driver.docker.hot_container import HotContainer
from driver.protocol import Beginning, Died, Execution, Observation, OomKilled, Sampling, Sink, Watcher
from driver.scarcity import frugal
from driver.since import MeterSince, risen
from machine.errors import DriverError
from machine.samples import Sample
from machine.signals import signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

PATIENCE = 10
"""Seconds without an answer."""
SIGKILL_EXIT = 137
_LOOKS = (0, 0.05, 0.2)  # seconds before each
_SPOILS = ("oom", "die", "kill", "stop", "destroy", "remove")


class HotCall(DockerContainer):
    """See `driver.protocol.Container`: what is the container's own is as with any, what is the command's is here."""

    def __init__(self, driver: DockerDriver, hot: HotContainer, spec: Spec, watcher: Watcher, home: HotSet) -> None:
        """`hot` runs, and is this call's until it is given back to `home`."""
        super().__init__(driver, hot.preparation, watcher, spec, since=0)
        self._hot = hot
        self._home = home
        self._asked = self._refused = self._spoiled = self._returned = False
        self._end: Died | None = None
        self._before: Sample | None = None

    def start(self) -> Beginning:
        """Ask for the command, once, and wait until it runs, or has run, or was refused."""
        if self._beginning is None:
            self._listen(self._driver.hot_events, self._event)
            self._driver.hot_events.wait(SUBSCRIBE_SECONDS)
            self._before = self._read_group()
            words = self._hot.words(self._spec)
            if not words:
                raise DriverError(Reason.START_REFUSED, "no command given, and the image has none")
            with self._driver.starting:
                self._beginning = self._begin(words)
        return self._beginning

    def _begin(self, words: list[str]) -> Beginning:
        """Ask for it: `_asked` from then on. An error, `_refused`, or UnknownOutcomeError when no answer comes."""
        raise NotImplementedError

    def _process(self) -> int | None:
        """The command's process id, as the engine's host numbers it; None when it is not known, or it has ended."""
        raise NotImplementedError

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        kind = action.split(":", maxsplit=1)[0]
        self._spoiled |= kind in _SPOILS
        if kind != "start":
            super()._event(action, at, attributes)

    def _unwatched(self, since: int, why: str) -> None:
        self._hot.sure = False
        super()._unwatched(since, why)

    def rejoin(self) -> bool:
        """Never: there is no way to attach to a command that somebody else has started."""
        return False

    def discard(self) -> bool:
        """The container stays; the command was never asked for."""
        if not self._asked:
            self.remove()
        return not self._asked

    def signal(self, name: str) -> bool:
        """To the process; SIGKILL to the whole container, which is not used again, whatever the signal does."""
        if not self._asked or self._end:
            return False
        self._spoiled = True
        if name == "KILL":
            return super().signal(name)
        pid = self._process()
        if pid and self._driver.groups.visible and _send(pid, signal_number(name), self._id):
            return True
        # To everybody that the call's user may signal, and that is not the first process.
        return self.execute(Execution(("sh", "-c", f"kill -{name} -1"), {}), lambda _, __: None) == 0

    def _ended(self, end: Died) -> Observation:
        """What is known of the end: it does not change any more."""
        ran_out = end.exit_code == SIGKILL_EXIT and self._ran_out()
        return Observation("exited", started_at=self._began, finished_at=end.at, oom_killed=ran_out)

    @property
    def _began(self) -> int | None:
        return self._beginning.engine_at if self._beginning else self._engine_at

    def _ran_out(self) -> bool:
        """Whether the engine has it that memory ran out: it never did before, or the container would be gone.

        It hears of that beside the end, and a moment later.
        """
        for pause in _LOOKS:
            time.sleep(pause)
            around = look(self._client, self._id)
            if around is not None and around["State"].get("OOMKilled"):
                self._spoiled = True
                return True
        return False

    # Samples: of the container, which is the call's alone just now, from the call's beginning on.

    def _read_group(self) -> Sample | None:
        return self._meter().counters() if self._hot.group else None

    def _meter(self) -> CgroupMeter:
        return CgroupMeter(self._driver.groups.mounts, self._hot.group or "", self._hot.pid)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> int | None:
        """From the container's control group when it can be seen from here, else from the engine's stream."""
        before = self._before
        if self._hot.group and before is not None:
            self._end_sampling = sampling.add(MeterSince(self._meter(), before), interval, sink)
            return interval
        from driver.docker.stats import EVERY, StatsStream

        def since_first(at: int, sample: Sample) -> None:
            self._before = self._before or sample
            sink(at, risen(sample, self._before))

        with frugal():
            self._stream = StatsStream(self._client, self._id, interval, since_first)
        return max(interval, EVERY)

    def totals(self) -> Sample | None:
        """The last reading of the container's group."""
        super().totals()
        if self._totals is None and self._before is not None and self._hot.group:
            final, kills = self._read_group(), self._meter().oom_kills()
            self._totals = final and risen(final, self._before)
            if kills:
                self._spoiled = True
                self._watcher.fact(OomKilled(time.time_ns(), "cgroup"))
        return self._totals

    def remove(self) -> None:
        """Give the container back. It is used again if the command has ended by itself, and nothing of it is left."""
        if not self._returned:
            self._returned = True
            self.close()
            self._home.give_back(self._hot, whole=self._unharmed())

    def _unharmed(self) -> bool:
        return not self._spoiled and (not self._asked or self._refused or self._end is not None)

    def close(self) -> None:
        """Let go of the events, not of the container."""
        super().close()
        self._hot.listen()


def _send(pid: int, number: int, container: str) -> bool:
    """Send a signal to a process of this host, if it is one of the container's and ours to signal."""
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            # Read behind the descriptor: from here on the number cannot have become another process'.
            if container in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii"):
                signal.pidfd_send_signal(descriptor, number)
                return True
        finally:
            os.close(descriptor)
    return False
