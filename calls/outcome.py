"""How a call ended, as a value and as an exit status."""

from __future__ import annotations

from typing import NamedTuple

from machine.signals import signal_number
from machine.verdict import Verdict

FAILED, NOT_EXECUTABLE, NOT_FOUND, TIMED_OUT, INTERRUPTED = 125, 126, 127, 124, 130
_NEVER_RAN = {"start-not-executable": NOT_EXECUTABLE, "start-not-found": NOT_FOUND}


class Call(NamedTuple):
    """How a call ended. The same words as `calls show`; times and samples are in the ledger, under `id`."""

    id: str
    state: str
    reason: str
    exit_code: int | None
    signal: str | None
    oom: str | None
    never_ran: bool
    message: str | None


def outcome(uid: str, verdict: Verdict) -> Call:
    """The verdict as a value for users."""
    ended = verdict.ended
    return Call(
        id=uid,
        state=str(verdict.state),
        reason=str(ended.reason),
        exit_code=ended.exit_code,
        signal=ended.signal,
        oom=ended.oom,
        never_ran=ended.never_ran,
        message=ended.message,
    )


def describe(call: Call) -> str:
    """The end of a call in one line."""
    parts = [f"{call.state}/{call.reason}"]
    if call.exit_code is not None:
        parts.append(f"exit code {call.exit_code}")
    if call.signal:
        parts.append(f"signal {call.signal}")
    return ", ".join(parts) + (f": {call.message}" if call.message else "")


def exit_status(call: Call) -> int:
    """What `calls run` exits with."""
    if call.state == "timeout":
        return TIMED_OUT
    if call.state == "cancelled":
        return INTERRUPTED
    if call.state == "killed" and call.signal and not call.never_ran:
        return 128 + signal_number(call.signal)
    if call.never_ran:
        return _NEVER_RAN.get(call.reason, FAILED)
    if call.exit_code is None or (call.state == "error" and call.exit_code == 0):
        return FAILED
    return call.exit_code
