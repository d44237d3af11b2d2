"""The log folded again, whole ledgers at once, and what was derived from it held against that.

The states come from the machine's table, the rows from the projection's own fold: the same that wrote them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ledger.projection import CODED_STEPS, COLUMNS, UNBORN, UNREADABLE, advance, begin
from ledger.sqlite import connect_reader, explain, scalar, sqlite3
from machine.errors import IllegalTransitionError
from machine.states import Kind, State

_KINDS, _STATES = tuple(Kind), tuple(State)
EVENTS = "SELECT call_id, seq, at, kind, state, elapsed_ns, data, samples, chunks FROM event"
_CALLS = f"SELECT id, {', '.join(COLUMNS)} FROM call"
_TOLD = 1000
"""Calls between two reports of progress."""

Row = dict[str, Any]
Told = Callable[[int, int], None]
Stored = Sequence[Any]
Found = tuple[int | None, str, Any, Any]
"""A Difference, but for the call."""


class FoldedLog(NamedTuple):
    """The row that the events of a call make (None: they make none), how many were read, and what is wrong."""

    row: Row | None
    events: int
    found: list[Found]


class Difference(NamedTuple):
    """What is stored and what the log folds to. `seq`: the event, None for the row of `call`.

    `column` "kind": the table does not allow the event; "data": it cannot be folded; "row": there is none. `folded`
    then says why. What follows after such an event is not looked at.
    """

    call: str
    seq: int | None
    column: str
    stored: Any
    folded: Any


class Folded(NamedTuple):
    """A ledger's calls by the state that their events lead to (None: they lead nowhere), and what differs."""

    calls: int
    events: int
    states: Counter[str | None]
    differences: list[Difference]


def _tell_nobody(_done: int, _of: int) -> None:
    pass


def check(path: Path, call_id: int | None = None, progress: Told = _tell_nobody) -> Folded:
    """Fold every event of a ledger (or of one call) and compare: each state stored, each row of `call`.

    One moment of the ledger, in one pass; memory does not grow with it. `progress` is told how many events are
    done, and about how many there are.
    """
    with explain(path), closing(connect_reader(path)) as connection:
        connection.execute("BEGIN")
        return _check(connection, call_id, progress)


def _check(connection: sqlite3.Connection, call_id: int | None, progress: Told) -> Folded:
    of_events, of_calls = ("", "") if call_id is None else (f" WHERE call_id = {call_id:d}", f" WHERE id = {call_id:d}")
    rows = connection.execute(f"{_CALLS}{of_calls} ORDER BY id")
    logs = groupby(connection.execute(f"{EVENTS}{of_events} ORDER BY call_id, seq"), itemgetter(0))
    states: Counter[str | None] = Counter()
    differences: list[Difference] = []
    done, total = 0, int(scalar(connection, "SELECT coalesce(max(id), 0) FROM event"))
    for call, stored, events in _together(rows, logs):
        row, count, found = fold_log(events)
        states[row["state"] if row else None] += 1
        if row is None or found or stored is None or (call, *row.values()) != stored:
            uid = stored[1] if stored else row["uid"] if row else f"number {call}"
            differences += (Difference(uid, *one) for one in (*found, *_compared(row, stored, count)))
        done += count
        if not states.total() % _TOLD:
            progress(done, total)
    return Folded(states.total(), done, states, differences)


def _together(
    rows: Iterator[Stored], logs: Iterator[tuple[int, Iterable[Stored]]]
) -> Iterator[tuple[int, Stored | None, Iterable[Stored]]]:
    """Each call's row (None if there is none) and its events (empty if there are none), in the order of the calls."""
    row, log = next(rows, None), next(logs, None)
    while row is not None or log is not None:
        call = min(one[0] for one in (row, log) if one is not None)
        stored = row if row is not None and row[0] == call else None
        events = log[1] if log is not None and log[0] == call else ()
        yield call, stored, events
        row = row if stored is None else next(rows, None)
        log = next(logs, None) if log is not None and log[0] == call else log


def fold_log(events: Iterable[Stored], step: Callable[[tuple[int, int]], int | None] = CODED_STEPS.get) -> FoldedLog:
    """Fold the rows of EVENTS of one call, in their order, as far as they can be folded."""
    row, state, count = begin(), UNBORN, 0
    found: list[Found] = []
    for _, seq, at, kind, stored, elapsed_ns, data, samples, chunks in events:
        count += 1
        if seq != count:
            return FoldedLog(None, count, [*found, (seq, "seq", seq, count)])
        folded = step((state, kind))
        if folded is None:
            return FoldedLog(None, count, [*found, (seq, "kind", _name(_KINDS, kind), _refusal(state, kind))])
        if folded != stored:
            found.append((seq, "state", _name(_STATES, stored), str(_STATES[folded])))
        try:
            advance(row, seq, at, _KINDS[kind], _STATES[folded], elapsed_ns, data, samples, chunks)
        except UNREADABLE as error:
            return FoldedLog(None, count, [*found, (seq, "data", data, str(error))])
        state = folded
    return FoldedLog(row if count else None, count, found)


def _compared(row: Row | None, stored: Stored | None, events: int) -> Iterator[Found]:
    if stored is None:
        yield None, "row", None, "it has events and no row in call"
    elif not events:
        yield None, "row", stored[1], "it has a row in call and no events"
    elif row is not None:
        pairs = zip(COLUMNS, stored[1:], row.values(), strict=True)
        yield from ((None, name, was, folded) for name, was, folded in pairs if was != folded)


def _name(names: Sequence[str], code: int) -> Any:
    return str(names[code]) if 0 <= code < len(names) else code


def _refusal(state: int, kind: int) -> str:
    if not 0 <= kind < len(_KINDS):
        return "there is no such kind of event"
    return str(IllegalTransitionError(None if state == UNBORN else _STATES[state], _KINDS[kind]))
