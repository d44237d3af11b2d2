"""The vocabulary: states, kinds of event, reasons. One word per thing.

The numeric codes are stored in ledgers for ever: append to these enums, never reorder them.
`schema.sql` carries the same names and codes; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self


class _Coded(StrEnum):
    code: int
    """The small integer that stands for this member in a ledger: its place in the enum."""

    def __new__(cls, value: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.code = len(cls.__members__)
        return member


class State(_Coded):
    """Where a call is. The five from SUCCESS on are terminal: nothing moves out of them."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    RUNNING = "running"
    HEALTH_WAIT = "health-wait"
    PAUSED = "paused"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    KILLED = "killed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the call is over."""
        return self in TERMINAL


class Kind(_Coded):
    """What happened: a fact, in the past tense. The first twelve move the state, the rest are notes."""

    SUBMITTED = "submitted"
    PREPARED = "prepared"
    STARTED = "started"
    HEALTH_AWAITED = "health-awaited"
    HEALTHY = "healthy"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    KILLED = "killed"
    CANCELLED = "cancelled"
    PULLED = "pulled"
    SIGNALLED = "signalled"
    CANCEL_REQUESTED = "cancel-requested"
    KILL_REQUESTED = "kill-requested"
    HEALTH_CHANGED = "health-changed"
    OOM_SEEN = "oom-seen"
    GAP = "gap"
    OUTPUT_CUT = "output-cut"
    CLEANED = "cleaned"
    ADOPTED = "adopted"
    PRUNED = "pruned"
    ADMITTED = "admitted"
    PULL_PROGRESSED = "pull-progressed"
    PAUSE_REQUESTED = "pause-requested"
    RESUME_REQUESTED = "resume-requested"
    SIGNAL_REQUESTED = "signal-requested"
    EXECUTED = "executed"
    LISTED = "listed"


class Reason(StrEnum):
    """Why a call ended: the closed list, by terminal state in `REASONS`."""

    EXIT = "exit"
    PULL_MISSING = "pull-missing"
    PULL_DENIED = "pull-denied"
    PULL_UNREACHABLE = "pull-unreachable"
    PULL_FAILED = "pull-failed"
    CREATE_REFUSED = "create-refused"
    START_REFUSED = "start-refused"
    START_NOT_FOUND = "start-not-found"
    START_NOT_EXECUTABLE = "start-not-executable"
    UNHEALTHY = "unhealthy"
    DESTROYED = "destroyed"
    ENGINE_UNAVAILABLE = "engine-unavailable"
    ENGINE_LOST = "engine-lost"
    LOST = "lost"
    RUNNER_FAULT = "runner-fault"
    DEADLINE = "deadline"
    PREPARE = "prepare"
    HEALTH = "health"
    OOM = "oom"
    EXTERNAL = "external"
    USER = "user"
    RUNNER_LOST = "runner-lost"
    RESOURCES = "resources"


Request = Literal["cancel", "kill", "signal", "pause", "resume"]
REQUESTS: dict[Request, Kind] = {
    "cancel": Kind.CANCEL_REQUESTED,
    "kill": Kind.KILL_REQUESTED,
    "signal": Kind.SIGNAL_REQUESTED,
    "pause": Kind.PAUSE_REQUESTED,
    "resume": Kind.RESUME_REQUESTED,
}
"""What can be asked of a call through its log, by what whoever conducts it is to do."""

TERMINAL = frozenset((State.SUCCESS, State.ERROR, State.TIMEOUT, State.KILLED, State.CANCELLED))

STARTED = frozenset((State.RUNNING, State.HEALTH_WAIT, State.PAUSED))
"""The states of a call that runs."""

REASONS: dict[State, frozenset[Reason]] = {
    State.SUCCESS: frozenset((Reason.EXIT,)),
    State.ERROR: frozenset(
        (
            Reason.EXIT,
            Reason.PULL_MISSING,
            Reason.PULL_DENIED,
            Reason.PULL_UNREACHABLE,
            Reason.PULL_FAILED,
            Reason.CREATE_REFUSED,
            Reason.START_REFUSED,
            Reason.START_NOT_FOUND,
            Reason.START_NOT_EXECUTABLE,
            Reason.UNHEALTHY,
            Reason.DESTROYED,
            Reason.ENGINE_UNAVAILABLE,
            Reason.ENGINE_LOST,
            Reason.LOST,
            Reason.RUNNER_FAULT,
            Reason.RESOURCES,
        )
    ),
    State.TIMEOUT: frozenset((Reason.DEADLINE, Reason.PREPARE, Reason.HEALTH)),
    State.KILLED: frozenset((Reason.OOM, Reason.EXTERNAL, Reason.USER)),
    State.CANCELLED: frozenset((Reason.USER, Reason.RUNNER_LOST)),
}
