"""A call in a hot container whose command the container's own shell carries out, and tells its end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from driver.docker.hot import HotSet
from driver.docker.hot_call import PATIENCE, SIGKILL_EXIT, HotCall
from driver.docker.hot_container import HotContainer
from driver.docker.shell import NOT_FOUND
from driver.protocol import Beginning, Died, Observation, OutputEnded, OutputResumed, Watcher
from machine.errors import DriverError, UnknownOutcomeError
from machine.spec import Spec
from machine.states import Reason

if TYPE_CHECKING:
    from driver.docker.driver import DockerDriver


class ShellCall(HotCall):
    """See `HotCall`; listens to the shell.

    Where the shell cannot tell the end, its own tells it: it was killed, and the command with it; or its input broke
    off, and then it ends as the command did.
    """

    def __init__(self, driver: DockerDriver, hot: HotContainer, spec: Spec, watcher: Watcher, home: HotSet) -> None:
        """See `HotCall`."""
        super().__init__(driver, hot, spec, watcher, home)
        self._answered = threading.Event()
        self._code = 0
        self._over_at: int | None = None  # since when nothing is heard, ns

    def _begin(self, words: list[str]) -> Beginning:
        self._asked = True
        lost = "the shell of the hot container did not say whether the command was started"
        try:
            self._hot.shell.carry_out(words, self)
        except OSError as error:
            raise UnknownOutcomeError(Reason.LOST, f"{lost}: {error}") from error
        if not self._answered.wait(PATIENCE) or not (self._refused or self._engine_at):
            self._spoiled = True
            raise UnknownOutcomeError(Reason.LOST, lost)
        if self._refused:
            raise self._refusal(words[0])
        return Beginning(self._engine_at, None)

    def _refusal(self, word: str) -> DriverError:
        if self._code == NOT_FOUND:
            return DriverError(Reason.START_NOT_FOUND, f'"{word}": executable file not found in the container')
        return DriverError(Reason.START_NOT_EXECUTABLE, f'"{word}": not an executable file')

    # What the shell says, in the thread that reads.

    def begun(self) -> None:
        """See `Listener`."""
        self._engine_at = time.time_ns()
        self._answered.set()

    def refused(self, code: int) -> None:
        """See `Listener`."""
        self._refused, self._code = True, code
        self._answered.set()

    def output(self, stream: int, data: bytes) -> None:
        """See `Listener`."""
        self._watcher.output(stream, data)

    def ended(self, code: int) -> None:
        """See `Listener`."""
        now = time.time_ns()
        self._end = Died(now, code, "shell")
        self._watcher.fact(OutputEnded(now))
        self._watcher.fact(self._end)

    def broke_off(self) -> None:
        """See `Listener`."""
        self._spoiled, self._over_at = True, time.time_ns()
        self._watcher.fact(OutputEnded(self._over_at))
        self._answered.set()

    # What the engine says.

    def _event(self, action: str, at: int, attributes: dict[str, str]) -> None:
        if not self._asked or self._end is not None:
            return
        if action == "die" and attributes.get("exitCode") != str(SIGKILL_EXIT):
            self._tell_broken()
        super()._event(action, at, attributes)

    def _tell_broken(self) -> None:
        """The shell ended because its input did: what was written after that is lost."""
        if self._over_at is not None:
            now = time.time_ns()
            self._watcher.fact(OutputResumed(now, self._over_at))
            self._watcher.fact(OutputEnded(now))
            self._over_at = None

    def _process(self) -> int | None:
        return self._hot.command()

    def inspect(self) -> Observation:
        """What the shell has said; before its end the engine's record of the container, which ends with the call."""
        if not self._asked or self._refused:
            return Observation("created")
        if self._end is not None:
            return self._ended(self._end)
        seen = super().inspect()
        if seen.status == "exited":
            self._spoiled = True
            if seen.exit_code != SIGKILL_EXIT:
                self._tell_broken()
        return seen._replace(started_at=self._began, pid=None)

    def close(self) -> None:
        """Let go of the shell and the events, not of the container."""
        self._hot.shell.forget()
        super().close()
