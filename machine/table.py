"""The transition table: the whole law of a call, one rule a line.

A rule that is not a line here is not a rule. Two readers use this table: `lifecycle` (through the
`transitions` package, one call at a time) and `fold` (a dict, whole ledgers at once). The ledger
holds a third copy, in SQL, so that a foreign writer is refused too; tests hold the three together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from machine.errors import IllegalTransitionError
from machine.states import TERMINAL, Kind, State


class Rule(NamedTuple):
    """`kind` is legal in each of `sources`; it moves the call to `target`, or nowhere when that is None.

    The source None stands for a call that does not exist yet.
    """

    kind: Kind
    sources: tuple[State | None, ...]
    target: State | None


_LIVE = tuple(state for state in State if state not in TERMINAL)
_ENDED = tuple(state for state in State if state in TERMINAL)
_ANY = _LIVE + _ENDED
_UP = (State.RUNNING, State.HEALTH_WAIT)
_STARTED = (*_UP, State.PAUSED)

RULES: tuple[Rule, ...] = (
    Rule(Kind.SUBMITTED, (None,), State.PREPARING),
    Rule(Kind.PREPARED, (State.PREPARING,), State.PREPARED),
    Rule(Kind.STARTED, (State.PREPARED,), State.RUNNING),
    Rule(Kind.HEALTH_AWAITED, (State.RUNNING,), State.HEALTH_WAIT),
    Rule(Kind.HEALTHY, (State.HEALTH_WAIT,), State.RUNNING),
    Rule(Kind.PAUSED, _UP, State.PAUSED),
    Rule(Kind.RESUMED, (State.PAUSED,), State.RUNNING),
    Rule(Kind.SUCCEEDED, _UP, State.SUCCESS),
    Rule(Kind.FAILED, _LIVE, State.ERROR),
    Rule(Kind.TIMED_OUT, _LIVE, State.TIMEOUT),
    Rule(Kind.KILLED, _LIVE, State.KILLED),
    Rule(Kind.CANCELLED, _LIVE, State.CANCELLED),
    # Notes: they say something about the call and move nothing.
    Rule(Kind.PULLED, (State.PREPARING,), None),
    Rule(Kind.SIGNALLED, _STARTED, None),
    Rule(Kind.CANCEL_REQUESTED, _LIVE, None),
    Rule(Kind.KILL_REQUESTED, _LIVE, None),
    Rule(Kind.HEALTH_CHANGED, _STARTED, None),
    Rule(Kind.OOM_SEEN, _STARTED, None),
    Rule(Kind.GAP, _ANY, None),
    Rule(Kind.OUTPUT_CUT, _ANY, None),
    Rule(Kind.CLEANED, _ENDED, None),
    Rule(Kind.ADOPTED, _ANY, None),
    Rule(Kind.PRUNED, _ENDED, None),
    Rule(Kind.ADMITTED, (State.PREPARING,), None),
    Rule(Kind.PULL_PROGRESSED, (State.PREPARING,), None),
    Rule(Kind.PAUSE_REQUESTED, _LIVE, None),
    Rule(Kind.RESUME_REQUESTED, _LIVE, None),
    Rule(Kind.SIGNAL_REQUESTED, _LIVE, None),
    Rule(Kind.EXECUTED, (*_STARTED, *_ENDED), None),
    Rule(Kind.LISTED, _STARTED, None),
)

STEPS: dict[tuple[State | None, Kind], State] = {
    (source, rule.kind): target for rule in RULES for source in rule.sources if (target := rule.target or source)
}
"""The table as a dict: (state, kind) -> next state. What is absent is illegal."""

VERDICTS: dict[State, Kind] = {
    rule.target: rule.kind for rule in RULES if rule.target is not None and rule.target.terminal
}
"""The kind of event that leads to each terminal state."""


def step(state: State | None, kind: Kind) -> State:
    """The state after `kind` happened in `state`; IllegalTransitionError where the table has no rule."""
    try:
        return STEPS[state, kind]
    except KeyError:
        raise IllegalTransitionError(state, kind) from None


def fold(kinds: Iterable[Kind]) -> State | None:
    """The state after all of `kinds`, in order; None for no events at all."""
    state: State | None = None
    for kind in kinds:
        state = step(state, kind)
    return state


def diagram() -> str:
    """The rules that move a call, as a Mermaid state diagram (the one in docs/machine.md)."""
    lines = ["stateDiagram-v2"]
    for rule in RULES:
        if rule.target is None:
            continue
        lines += [f"    {_node(source)} --> {_node(rule.target)}: {rule.kind}" for source in rule.sources]
    lines += [f"    {_node(state)} --> [*]" for state in _ENDED]
    return "\n".join(lines) + "\n"


def _node(state: State | None) -> str:
    return "[*]" if state is None else state.replace("-", "_")
