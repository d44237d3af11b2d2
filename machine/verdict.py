"""From evidence to verdict: the one place where it is decided how a call ended.

The rules are those of docs/machine.md, in order of precedence. Never a false success: an exit code of
zero counts only when a named source saw it and the container really started.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from machine.facts import Ended
from machine.record import Record
from machine.signals import signal_name, signal_number
from machine.states import Reason, State

Why = Literal["deadline", "health", "unhealthy", "cancel", "kill"]

_STOPPED: dict[Why, tuple[State, Reason]] = {
    "deadline": (State.TIMEOUT, Reason.DEADLINE),
    "health": (State.TIMEOUT, Reason.HEALTH),
    "unhealthy": (State.ERROR, Reason.UNHEALTHY),
    "cancel": (State.CANCELLED, Reason.USER),
    "kill": (State.KILLED, Reason.USER),
}
ENDING = frozenset(("KILL", "TERM", "INT", "QUIT", "ABRT"))
"""The signals that ask for the end; the others are messages."""
SIGKILL_EXIT = 137
_FLAGS = ("near_limit", "unconfirmed", "external_stop", "destroyed", "engine_lost", "engine_stop", "recovered")
ENGINE_LOST_TRACK = 255  # the engine's code for a container whose end it did not see


_SOURCES = ("wait4", "shell", "inspect", "die")
"""Of an exit code: a parent that waited, the engine's record, its event."""


class Verdict(NamedTuple):
    """The terminal state and what goes into its event."""

    state: State
    ended: Ended


class Evidence(Record):
    """What was seen of a call that ran. Facts only; `decide` draws the conclusion.

    `exits` maps a source ("wait4", "shell", "inspect", "die") to the exit code it reported. `stop` is why we
    stopped it, set only once a signal of ours was delivered. `recovered`: another runner saw the beginning, and
    nobody a part of what came then. `engine_stop`: the engine stopped it as it was started again. `messages`:
    signals of ours that were not to end it.
    Times in ns, the engine's clock.
    """

    exits: dict[str, int] = {}  # noqa: RUF012 - Record copies it
    started_at: int | None = None
    finished_at: int | None = None
    oom: set[str] = set()  # noqa: RUF012
    near_limit: bool = False
    stop: Why | None = None
    stop_signal: str | None = None
    messages: set[str] = set()  # noqa: RUF012
    unconfirmed: bool = False
    external_signal: str | None = None
    external_stop: bool = False
    death_signal: int | None = None
    destroyed: bool = False
    engine_lost: bool = False
    engine_stop: bool = False
    awaiting_health: bool = False
    recovered: bool = False
    error: str | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit code by the best source: the waiting parent, the engine's record, its event."""
        return next((self.exits[source] for source in _SOURCES if source in self.exits), None)

    def dump(self) -> dict[str, Any]:
        """The evidence as recorded: what was seen, without what was not."""
        seen: dict[str, Any] = {"exits": dict(sorted(self.exits.items()))}
        if len(set(self.exits.values())) > 1:
            seen["conflict"] = True
        for name in ("started_at", "finished_at", "stop", "external_signal", "death_signal", "error"):
            if getattr(self, name) is not None:
                seen[name] = getattr(self, name)
        for name in ("messages", "oom"):
            if getattr(self, name):
                seen[name] = sorted(getattr(self, name))
        for name in _FLAGS:
            if getattr(self, name):
                seen[name] = True
        return seen


def decide(seen: Evidence) -> Verdict:
    """The verdict on a call that was started. Total: every combination of evidence has exactly one."""
    state, reason, signal = _cause(seen)
    ended = Ended(
        reason=reason,
        message=seen.error,
        exit_code=seen.exit_code,
        signal=signal,
        oom=_oom(seen),
        evidence=seen.dump(),
    )
    return Verdict(state, ended)


def never_ran(state: State, reason: Reason, message: str | None, exit_code: int | None = None) -> Verdict:
    """The verdict on a call whose process never started."""
    return Verdict(state, Ended(reason=reason, message=message, exit_code=exit_code, never_ran=True))


def _cause(seen: Evidence) -> tuple[State, Reason, str | None]:
    code = seen.exit_code
    if seen.stop is not None and _answers(seen, code):
        # A signal of ours reached the process before its end: whatever it answered, we ended it.
        return (*_STOPPED[seen.stop], seen.stop_signal if seen.stop == "kill" else None)
    if seen.destroyed and seen.awaiting_health and (code is None or seen.external_signal is not None):
        return State.ERROR, Reason.DESTROYED, seen.external_signal
    if seen.external_signal is not None and _ended_by(seen, code):
        return State.KILLED, Reason.EXTERNAL, seen.external_signal
    if (message := _fatal(seen, code)) is not None:
        return State.KILLED, Reason.USER, message
    if code == SIGKILL_EXIT and seen.started_at is not None and _oom(seen):
        return State.KILLED, Reason.OOM, "KILL"
    if seen.engine_stop or (seen.engine_lost and code in (None, ENGINE_LOST_TRACK, SIGKILL_EXIT)):
        return State.ERROR, Reason.ENGINE_LOST, None
    if code is None or seen.started_at is None:
        return State.ERROR, Reason.DESTROYED if seen.destroyed and code is None else Reason.LOST, None
    if seen.death_signal is not None:
        return State.KILLED, Reason.EXTERNAL, signal_name(seen.death_signal)
    if code == 0:
        return State.SUCCESS, Reason.EXIT, None
    return State.ERROR, Reason.EXIT, None


def _answers(seen: Evidence, code: int | None) -> bool:
    """Whether our stop ended it. `calls kill -s HUP` is a message: it ended the call only if the code says so."""
    if seen.stop != "kill" or seen.stop_signal in ENDING or code is None:
        return True
    return code == 128 + signal_number(seen.stop_signal or "KILL")


def _fatal(seen: Evidence, code: int | None) -> str | None:
    """The message that was the end all the same: the exit code names it."""
    return next((name for name in sorted(seen.messages) if code == 128 + signal_number(name)), None)


def _ended_by(seen: Evidence, code: int | None) -> bool:
    """Whether the foreign signal ended it: a stop, a removal, or an exit code that names the signal."""
    if seen.external_stop or seen.destroyed or code is None:
        return True
    return code == 128 + signal_number(seen.external_signal or "KILL")


def _oom(seen: Evidence) -> Literal["certain", "likely"] | None:
    if seen.oom:
        return "certain"
    signalled = seen.stop or seen.external_signal or "KILL" in seen.messages
    if seen.near_limit and seen.exit_code == SIGKILL_EXIT and not signalled:
        return "likely"
    return None
