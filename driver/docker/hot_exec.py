"""A call in a hot container whose command the engine executes, because it reads our input. Its end is `exec_die`."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from driver.docker.command_output import CommandOutput
from driver.docker.engine import condition, look
from driver.docker.errors import speaking, start_reason, status
from driver.docker.hot import HotSet
from driver.docker.hot_call import PATIENCE, SIGKILL_EXIT, HotCall
from driver.docker.hot_container import HotContainer
from driver.protocol import Beginning, Died, Observation, Watcher
from driver.scarcity import frugal
from machine.errors import DriverError, UnknownOutcomeError
from machine.spec import Spec
from machine.states import Reason
from machine.units import SECOND

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver

EXECUTES = ("exec_start", "exec_die")
"""What is heard of besides what happens to containers."""
_LAST_WORDS = 2  # seconds in which a refusal is explained
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0  # seconds between two looks whether it has begun
_LATE = 2 * SECOND  # how long after its output a command that had all of it passed on may end
_BROKEN = 126  # what the engine says of a command that it cannot start, and of one that it has lost


class ExecutedCall(HotCall):
    """See `HotCall`."""

    def __init__(self, driver: DockerDriver, hot: HotContainer, spec: Spec, watcher: Watcher, home: HotSet) -> None:
        """See `HotCall`."""
        super().__init__(driver, hot, spec, watcher, home)
        self._exec: str | None = None
        self._open = False  # to the container's events: not before the command is asked for
        self._news = threading.Event()
        self._words = CommandOutput(driver.pump, watcher, self._news.set)
        self._follower: threading.Thread | None = None
        self._closed = threading.Event()

    def _begin(self, words: list[str]) -> Beginning:
        asked_at = time.time_ns()
        self._ask(words)
        pid = self._wait()
        self._words.let_go()
        # By the engine's clock where it has told; it does, unless the events are interrupted just now.
        return Beginning(self._engine_at or asked_at, pid)

    def _ask(self, words: list[str]) -> None:
        with speaking(Reason.START_REFUSED):
            self._exec = self._client.exec_create(self._id, words, stdin=True)["Id"]
            self._asked = True
            raw = self._client.exec_start(self._exec, socket=True)
        try:
            self._words.connect(raw)
        except DriverError as error:  # it may run by now, and nobody could say that it never did
            raise UnknownOutcomeError(error.reason, f"the command may have started: {error}") from error

    def _wait(self) -> int | None:
        """Wait; -> the process id, where it was seen. A refusal comes in place of the output."""
        answered, pause = time.monotonic(), _FIRST_LOOK
        while time.monotonic() < answered + PATIENCE:
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

    def _process(self) -> int | None:
        seen = self._look_inside()
        return int(seen["Pid"]) if seen and seen["Running"] and seen["Pid"] else None

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        kind, ours = action.split(":", maxsplit=1)[0], attributes.get("execID") == self._exec
        if kind == "exec_start" and ours:
            self._engine_at, self._open = at, True
        elif kind == "exec_die" and ours:
            over_at, now = self._words.over_at, time.time_ns()
            if self._follower is not None or (over_at is not None and now - over_at > _LATE):
                self._words.tell_broken()
            self._end = Died(at, int(attributes.get("exitCode", "255")), "die")
            self._watcher.fact(self._end)
            self._news.set()
        elif kind == "die":  # of the container: the command's own end is told, too, or found by looking
            self._spoiled |= self._open
        elif kind not in EXECUTES and self._open:
            super()._event(action, at, attributes)

    def _unwatched(self, since: int, why: str) -> None:
        self._open = True
        super()._unwatched(since, why)

    def inspect(self) -> Observation:
        """The engine's record of the command; of its end, what the event has told: that does not change any more."""
        if self._exec is None:
            return Observation("created")
        if self._end is not None:
            return self._ended(self._end)
        seen = self._look_inside()
        if seen is None:
            return Observation("gone")
        if not seen["Pid"]:
            return Observation("created")
        if seen["Running"] or seen["ExitCode"] is None:
            self._mind()
            around = look(self._client, self._id)
            paused = around is not None and condition(around["State"]["Status"]) == "paused"
            return Observation("paused" if paused else "running", started_at=self._began, pid=seen["Pid"])
        if (code := seen["ExitCode"]) == _BROKEN:
            return self._lost()
        ran_out = code == SIGKILL_EXIT and self._ran_out()
        return Observation("exited", exit_code=code, started_at=self._began, oom_killed=ran_out)

    def _mind(self) -> None:
        if self._words.over_at is not None and self._follower is None:
            with frugal():
                self._follower = threading.Thread(target=self._follow, name="hot-follow", daemon=True)
                self._follower.start()

    def _lost(self) -> Observation:
        """The connection broke, and the engine has let go of the command: what runs of it can only be ended."""
        self._spoiled = True
        with contextlib.suppress(DriverError):
            super().signal("KILL")
        error = "the connection to the command broke, and with it went its exit code; its container was killed"
        return Observation("exited", started_at=self._began, error=error)

    def close(self) -> None:
        """Let go of the connection and the events, not of the container."""
        super().close()
        self._closed.set()
        self._words.close()
