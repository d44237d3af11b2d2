"""One call's walk through the table, run by the `transitions` package. Written before believed.

One Machine serves every call: models are never added to it (8.5 kB and a list scan each), a trigger
is called with the model as its argument. `auto_transitions` stays off: `to_success()` would walk past
the table. Source of the figures: docs/architecture.md.

A call's birth is read from the table itself: the package takes 5 ms to load, which a first call need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from machine.errors import IllegalTransitionError
from machine.states import Kind, State
from machine.table import RULES, step

if TYPE_CHECKING:
    from transitions import Machine

_UNBORN = "unborn"  # `transitions` wants a name for the state of a call that does not exist yet


class Lifecycle:
    """The state of one call, moved only by events that `write` has made durable.

    `write(kind, state, data)` appends the event to the log and returns when it is durable; when it
    raises, nothing has moved. Not thread-safe: a call has one owner.
    """

    __slots__ = ("state", "write")

    def __init__(self, write: Callable[[Kind, State, Any], None], state: State | None = None) -> None:
        """Start before birth, or at `state` for a call that is taken over."""
        self.write = write
        self.state: str = str(state or _UNBORN)  # a plain string: `transitions` takes an enum by its NAME

    def apply(self, kind: Kind, data: Any = None) -> State:
        """Write `kind`, then move. IllegalTransitionError, with nothing written, if the table forbids it."""
        if self.state == _UNBORN:
            self._begin(kind, data)
        else:
            self._move(kind, data)
        return State(self.state)

    def _begin(self, kind: Kind, data: Any) -> None:
        state = step(None, kind)
        self.write(kind, state, data)
        self.state = str(state)

    def _move(self, kind: Kind, data: Any) -> None:
        from transitions import MachineError

        if kind not in shared().events:
            raise IllegalTransitionError(None, kind)
        try:
            shared().events[kind].trigger(self, data)
        except MachineError:
            raise IllegalTransitionError(State(self.state), kind) from None


def _write(event: Any) -> None:
    # A `before` callback: when the write fails the state stays. An `after` one would leave it ahead.
    target = event.transition.dest or event.model.state
    event.model.write(Kind(event.event.name), State(target), event.args[0])


@cache
def shared() -> Machine:
    """The machine of all calls, made when the first of them moves."""
    from transitions import Machine

    return Machine(
        model=None,
        states=[_UNBORN, *map(str, State)],  # plain strings: it would take an enum by its NAME
        transitions=[
            {
                "trigger": str(rule.kind),
                "source": [str(source or _UNBORN) for source in rule.sources],
                "dest": rule.target and str(rule.target),
                "before": _write,
            }
            for rule in RULES
        ],
        initial=_UNBORN,
        auto_transitions=False,
        send_event=True,
    )
