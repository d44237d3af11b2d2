"""How a call is stopped: stop signal, grace, SIGKILL, and no giving up before that is confirmed or hopeless.

And what else we do to a call that runs: messages, and pauses, which must not get into its way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from calls.alarms import Alarms
from calls.clock import Clock
from calls.recorder import Recorder
from driver.protocol import Container
from machine.errors import DriverError, UnknownOutcomeError
from machine.facts import Signalled
from machine.history import Signal
from machine.states import State
from machine.units import SECOND
from machine.verdict import ENDING, Evidence, Why

CONFIRM = 10 * SECOND
"""How long the end may take to show after a SIGKILL."""
KILLS = 5
_KIN = {"pause": "STOP", "resume": "CONT"}
_RANK: dict[Why, int] = {"deadline": 1, "health": 1, "unhealthy": 1, "cancel": 2, "kill": 3}


class Stopping:
    """One call's way out. A stronger reason (kill over cancel over deadline) takes the place of a weaker one."""

    def __init__(
        self,
        container: Container,
        evidence: Evidence,
        alarms: Alarms,
        clock: Clock,
        recorder: Recorder,
        look: Callable[[], None],
    ) -> None:
        """`recorder` notes each signal, `look` inspects when there was nobody to take it.

        `evidence.stop` is set once a signal was delivered: what ended before is not our doing.
        """
        self._container = container
        self._evidence = evidence
        self._alarms = alarms
        self._clock = clock
        self._recorder = recorder
        self._look = look
        self._rank = 0
        self._unanswered = 0
        self.hopeless = False

    def stop(self, why: Why, grace: int) -> None:
        """Ask for the end, and force it after `grace` ns."""
        if _RANK[why] <= self._rank:
            return
        self._rank = _RANK[why]
        if grace == 0:
            self._force(why)
        else:
            self._send(why, self._container.preparation.stop_signal)
            self._alarms.set("force", self._clock.monotonic() + grace, lambda: self._force(why))

    def resume(self, sent: Signal, now: int, grace: int) -> None:
        """Go on where another runner stopped: `sent` is its last signal. `now`: the wall clock, as in `sent`."""
        self._rank = _RANK[sent.why]
        if sent.name == "KILL":
            self._alarms.set("force", self._clock.monotonic() + CONFIRM, lambda: self._again(sent.why))
        elif sent.why != "kill":
            left = max(0, sent.at + grace - now)
            self._alarms.set("force", self._clock.monotonic() + left, lambda: self._force(sent.why))

    def kill(self, signal: str) -> None:
        """Send the one signal that was asked for; SIGKILL is confirmed. A message (HUP, USR1) stops nothing."""
        if signal == "KILL":
            self._rank = _RANK["kill"]
            self._force("kill")
        elif signal in ENDING or self._evidence.stop is None:
            self._send("kill", signal)
        else:
            self._tell("kill", signal)

    def message(self, signal: str) -> None:
        """Pass on a signal that is not to end the call: only an exit code that names it says that it did."""
        if self._tell("signal", signal):
            self._evidence.messages.add(signal)

    def turn(self, way: Literal["pause", "resume"]) -> None:
        """Freeze the call, or let it go on. What fails is recorded; what is done the driver reports."""
        error = None
        try:
            if way == "pause" and self._rank:
                error = "its end is under way"
            elif not (self._container.pause() if way == "pause" else self._container.resume()):
                error = "it was not running any more"
        except DriverError as failed:
            error = str(failed)
        if error is not None:
            self._recorder.apply(Signalled(signal=_KIN[way], why=way, error=error))

    def _force(self, why: Why) -> None:
        self._send(why, "KILL")
        self._alarms.set("force", self._clock.monotonic() + CONFIRM, lambda: self._again(why))

    def _again(self, why: Why) -> None:
        self._unanswered += 1
        if self._unanswered >= KILLS:
            self._evidence.unconfirmed = self.hopeless = True
            self._evidence.stop = self._evidence.stop or why  # it did not end, by itself or by us
        else:
            self._force(why)

    def _send(self, why: Why, signal: str) -> None:
        if self._tell(why, signal):
            self._evidence.stop = why
            self._evidence.stop_signal = signal
            if (why != "kill" or signal in ENDING) and self._recorder.state is State.PAUSED:
                with suppress(DriverError):  # what is frozen takes the signal when it goes on; SIGKILL comes anyway
                    self._container.resume()

    def _tell(self, why: Why | Literal["signal"], signal: str) -> bool:
        """Send a signal and record it; -> whether it was delivered, or may have been."""
        error = None
        try:
            delivered = self._container.signal(signal)
            if not delivered:
                error = "it was not running any more"
        except DriverError as failed:
            delivered, error = isinstance(failed, UnknownOutcomeError), str(failed)
        self._recorder.apply(Signalled(signal=signal, why=why, error=error))
        if not delivered:
            self._look()
        return delivered
