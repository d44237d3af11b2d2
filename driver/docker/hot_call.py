"""One call in a hot container: a command that the engine executes there. Its end is an event, `exec_die`."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.cgroup import CgroupMeter
from driver.docker.command_output import CommandOutput
from driver.docker.container import DockerContainer
from driver.docker.engine import condition, look
from driver.docker.errors import speaking, start_reason, status
from driver.docker.hot import HotContainer, HotSet
from driver.protocol import (
    Beginning,
    Died,
    Execution,
    Observation,
    OomKilled,
    Sampling,
    Sink,
    Watcher,
)
from driver.scarcity import frugal
from driver.since import MeterSince, risen
from machine.errors import DriverError, UnknownOutcomeError
from machine.samples import Sample
from machine.signals import signal_number
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

EXECUTES = ("exec_start", "exec_die")
"""What is heard of besides what happens to containers."""
_SUBSCRIBE_SECONDS = 10
_PATIENCE = 10  # seconds without an answer
_LAST_WORDS = 2  # seconds in which a refusal is explained
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0  # seconds between two looks whether it has begun
_SIGKILL_EXIT = 137
_BROKEN = 126  # what the engine says of a command that it cannot start, and of one that it has lost


class HotCall(DockerContainer):
    """See `driver.protocol.Container`: what is the container's own is as with any, what is the command's is here."""

    def __init__(self, driver: DockerDriver, hot: HotContainer, spec: Spec, watcher: Watcher, home: HotSet) -> None:
        """`hot` runs, and is this call's until it is given back to `home`."""
        super().__init__(driver, hot.preparation, watcher, spec, since=0)
        self._hot = hot
        self._home = home
        self._exec: str | None = None
        self._news = threading.Event()
        self._open = False  # to the container's events: not before the command is asked for
        self._end: Died | None = None
        self._refused = self._spoiled = self._returned = False
        self._words = CommandOutput(driver.pump, watcher, self._news.set)
        self._follower: threading.Thread | None = None
        self._closed = threading.Event()
        self._before: Sample | None = None

    def start(self) -> Beginning:
        """Ask for the command, once, and wait until it runs, or has run, or was refused."""
        if self._beginning is None:
            self._listen(self._driver.hot_events, self._event)
            self._driver.hot_events.wait(_SUBSCRIBE_SECONDS)
            self._before = self._read_group()
            asked_at = time.time_ns()
            with self._driver.starting:
                self._ask()
                pid = self._begin()
            # By the engine's clock where it has told; it does, unless the events are interrupted just now.
            self._beginning = Beginning(self._engine_at or asked_at, pid)
            self._words.let_go()
        return self._beginning

    def _ask(self) -> None:
        client, interactive = self._client, self._spec.interactive
        words = self._hot.words(self._spec)
        if not words:
            raise DriverError(Reason.START_REFUSED, "no command given, and the image has none")
        with speaking(Reason.START_REFUSED):
            self._exec = client.exec_create(self._id, words, stdin=interactive)["Id"]
            raw = client.exec_start(self._exec, socket=True)
        try:
            self._words.connect(raw, interactive=interactive)
        except DriverError as error:  # it may run by now, and nobody could say that it never did
            raise UnknownOutcomeError(error.reason, f"the command may have started: {error}") from error

    def _begin(self) -> int | None:
        """Wait; -> the process id, where it was seen. A refusal comes in place of the output."""
        answered, pause = time.monotonic(), _FIRST_LOOK
        while time.monotonic() < answered + _PATIENCE:
            self._news.wait(pause)
            self._news.clear()
            if self._end:
                return None
            try:
                seen = self._look_inside()
            except DriverError:
                time.sleep(_LAST_LOOK)
                continue
            if seen is None:
                break
            answered = time.monotonic()
            if seen["Pid"]:
                return int(seen["Pid"])
            if seen["ExitCode"] is not None and not seen["Running"]:
                raise self._refusal()
            pause = min(2 * pause, _LAST_LOOK)
        raise UnknownOutcomeError(Reason.LOST, "the engine did not say whether the command was started")

    def _refusal(self) -> DriverError:
        """What the engine says is written after it is known that it refuses."""
        self._refused = True
        if self._words.over_at is None:
            self._news.wait(_LAST_WORDS)
        message = self._words.held() or "the engine did not start the command"
        return DriverError(start_reason(message), message)

    def _look_inside(self) -> dict[str, Any] | None:
        """The engine's record of the command; None when that is gone with its container, or its engine."""
        try:
            with speaking(Reason.LOST):
                return dict(self._client.exec_inspect(self._exec))
        except DriverError as error:
            if status(error) == 404:
                return None
            raise

    def _follow(self) -> None:
        """Of a command that runs on when its output has ended: most likely the connection broke. Look for its end.

        Where the engine could not pass on its last words, no event tells it.
        """
        while not self._closed.wait(_LAST_LOOK):
            with contextlib.suppress(DriverError):
                seen = self._look_inside()
                if seen is None or not seen["Running"]:
                    self._words.tell_broken()
                    return

    # What happens.

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        kind, ours = action.split(":", maxsplit=1)[0], attributes.get("execID") == self._exec
        if kind == "exec_start" and ours:
            self._engine_at, self._open = at, True
        elif kind == "exec_die" and ours:
            if self._follower is not None:
                self._words.tell_broken()
            self._end = Died(at, int(attributes.get("exitCode", "255")), "die")
            self._watcher.fact(self._end)
            self._news.set()
        elif kind not in (*EXECUTES, "start") and self._open:
            self._spoiled |= kind in ("oom", "die", "kill", "stop", "destroy", "remove")
            if kind != "die":  # of the container: the command's own end is told, too, or found by looking
                super()._event(action, at, attributes)

    def _unwatched(self, since: int, why: str) -> None:
        self._open, self._hot.sure = True, False
        super()._unwatched(since, why)

    def rejoin(self) -> bool:
        """Never: there is no way to attach to a command that somebody else has started."""
        return False

    def discard(self) -> bool:
        """The container stays; the command was never asked for."""
        if self._exec is None:
            self.remove()
        return self._exec is None

    def signal(self, name: str) -> bool:
        """To the process; SIGKILL to the whole container, which is not used again, whatever the signal does."""
        if self._exec is None or self._end:
            return False
        self._spoiled = True
        if name == "KILL":
            return super().signal(name)
        seen = self._look_inside()
        if seen is None or not (seen["Running"] and seen["Pid"]):
            return False
        if self._driver.sees_groups and _send(seen["Pid"], signal_number(name), self._id):
            return True
        # To everybody that the call's user may signal, and that is not the first process.
        return self.execute(Execution(("sh", "-c", f"kill -{name} -1"), {}), lambda _, __: None) == 0

    def inspect(self) -> Observation:
        """The engine's record of the command; of its end, what the event has told: that does not change any more."""
        if self._exec is None:
            return Observation("created")
        if self._end is not None:
            ran_out = self._end.exit_code == _SIGKILL_EXIT and self._ran_out()
            began = self._beginning and self._beginning.engine_at
            return Observation("exited", started_at=began, finished_at=self._end.at, oom_killed=ran_out)
        seen = self._look_inside()
        if seen is None:
            return Observation("gone")
        if not seen["Pid"]:
            return Observation("created")
        began, pid = self._beginning.engine_at if self._beginning else self._engine_at, seen["Pid"]
        if seen["Running"] or seen["ExitCode"] is None:
            self._mind()
            around = look(self._client, self._id)
            paused = around is not None and condition(around["State"]["Status"]) == "paused"
            return Observation("paused" if paused else "running", started_at=began, pid=pid)
        if (code := seen["ExitCode"]) == _BROKEN:
            return self._lost(began)
        ran_out = code == _SIGKILL_EXIT and self._ran_out()
        return Observation("exited", exit_code=code, started_at=began, oom_killed=ran_out)

    def _mind(self) -> None:
        if self._words.over_at is not None and self._follower is None:
            with frugal():
                self._follower = threading.Thread(target=self._follow, name="hot-follow", daemon=True)
                self._follower.start()

    def _lost(self, began: int | None) -> Observation:
        """The connection broke, and the engine has let go of the command: what runs of it can only be ended."""
        self._spoiled = True
        with contextlib.suppress(DriverError):
            super().signal("KILL")
        error = "the connection to the command broke, and with it went its exit code; its container was killed"
        return Observation("exited", started_at=began, error=error)

    def _ran_out(self) -> bool:
        """Whether the engine has it that memory ran out: it never did before, or the container would be gone."""
        around = look(self._client, self._id)
        out = around is not None and bool(around["State"].get("OOMKilled"))
        self._spoiled |= out
        return out

    # Samples: of the container, which is the call's alone just now, from the call's beginning on.

    def _read_group(self) -> Sample | None:
        return self._meter().totals() if self._hot.group else None

    def _meter(self) -> CgroupMeter:
        return CgroupMeter(self._driver.mounts, self._hot.group or "", self._hot.pid)

    def observe(self, sampling: Sampling, interval: int, sink: Sink) -> None:
        """From the container's control group when it can be seen from here, else from the engine's stream."""
        before = self._before
        if self._hot.group and before is not None:
            self._end_sampling = sampling.add(MeterSince(self._meter(), before), interval, sink)
            return
        from driver.docker.stats import StatsStream

        def since_first(at: int, sample: Sample) -> None:
            self._before = self._before or sample
            sink(at, risen(sample, self._before))

        with frugal():
            self._stream = StatsStream(self._client, self._id, interval, since_first)

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
        return not self._spoiled and (self._exec is None or self._refused or self._end is not None)

    def close(self) -> None:
        """Let go of the connection and the events, not of the container."""
        super().close()
        self._hot.listen()
        self._closed.set()
        self._words.close()


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
