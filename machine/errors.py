"""The one error tree. Outcomes of calls are states, not exceptions; these are for misuse and a broken world.

CallsError                      everything this program raises on purpose
├── UsageError                  the caller's fault: a wrong option, an unknown call
│   ├── SpecError               one option of a call is wrong; `.option` names it
│   ├── UnknownCallError        a CALL that matches nothing
│   │   └── AmbiguousCallError  a CALL that matches several
│   ├── CallEndedError          nothing can be asked of a call that is over
│   └── NotRunningError         what was asked of a call needs a process that runs
├── UndoneError                 what was asked of a call was not done: refused, or nobody answered
├── IllegalTransitionError      the table has no such rule; nothing was written
├── LedgerError                 the file: not a ledger, newer, read-only, full, locked
│   ├── NothingSavedError       a file so damaged that no event of a ledger is left in it
│   └── RefusedError            the log does not take this event: the call is not where it could happen
│       └── TakenOverError      another runner conducts this call now
└── DriverError                 the engine or the host refused; `.reason` says which verdict that is
    └── UnknownOutcomeError     no answer came: it may or may not have happened
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from machine.states import Kind, Reason, State


class CallsError(Exception):
    """Base of all errors raised on purpose. The message is one line, for a person."""

    no: ClassVar[bool] = False
    """Whether this is an answer, "no", and not a fault: the command line says it with exit status 1, not 2."""


class UsageError(CallsError):
    """The request itself is wrong: nothing was done, nothing was written."""


class SpecError(UsageError):
    """An option of a call has a value that cannot be used."""

    def __init__(self, option: str, message: str) -> None:
        """`option` is the keyword (`stop_signal`); the message shows it as its flag (`--stop-signal`)."""
        self.option = option
        flag = option.upper() if option in ("image", "command") else "--" + option.replace("_", "-")
        super().__init__(f"{flag}: {message}")


class UnknownCallError(UsageError):
    """A CALL that names no call of the ledger."""

    no = True


class AmbiguousCallError(UnknownCallError):
    """A CALL that names more than one call of the ledger."""

    no = False


class CallEndedError(UsageError):
    """What was asked of a call can be done only before its end. Nothing was written."""

    no = True


class NotRunningError(UsageError):
    """What was asked of a call can be done only while its process runs. Nothing was written."""

    no = True


class UndoneError(CallsError):
    """What was asked of a call is in its log and was not carried out: it was refused, or nobody answered."""


class IllegalTransitionError(CallsError):
    """`kind` may not happen in `state`. Nothing was written and nothing moved."""

    def __init__(self, state: State | None, kind: Kind | str) -> None:
        """`state` is None for a call that does not exist yet."""
        self.state = state
        self.kind = kind
        super().__init__(f"a call that is {state or 'not submitted'} cannot be {kind}")


class LedgerError(CallsError):
    """The ledger file cannot be used as asked."""


class NothingSavedError(LedgerError):
    """Nothing that proves itself is left in a file. No new one was made."""

    no = True


class RefusedError(LedgerError):
    """The ledger's own rules forbid this event: the call is over, say, or somebody else has moved it."""


class TakenOverError(RefusedError):
    """The call has another owner by now, who took this one for dead. Let go of it, and of its container."""


class DriverError(CallsError):
    """The engine (or the host) refused or failed; `reason` is the verdict if the call ends of it."""

    def __init__(self, reason: Reason, message: str) -> None:
        """The message is the engine's own words, without its JSON wrapping."""
        self.reason = reason
        super().__init__(message)


class UnknownOutcomeError(DriverError):
    """The request got no answer: it is unknown whether it was carried out. Look, do not assume."""
