"""The projection: one row a call, folded from its events and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from machine.states import Kind, State
from machine.table import STEPS, VERDICTS


class Event(NamedTuple):
    """A row of `event`, decoded. `at` and `elapsed_ns` in nanoseconds, `data` still JSON text."""

    seq: int
    at: int
    kind: Kind
    state: State
    elapsed_ns: int | None
    data: str
    samples: int
    chunks: int


UNBORN = -1
"""Instead of the code of a state: no event has happened yet."""
CODED_STEPS = {
    (UNBORN if source is None else source.code, kind.code): target.code for (source, kind), target in STEPS.items()
}
"""The table by codes: (state before, kind) -> state after."""
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What an event leads to that says what this program does not write."""

COLUMNS = [
    "uid",
    "name",
    "image",
    "image_id",
    "image_digest",
    "driver",
    "container",
    "runner",
    "state",
    "reason",
    "message",
    "exit_code",
    "signal",
    "oom",
    "never_ran",
    "created_at",
    "started_at",
    "ended_at",
    "entered_at",
    "preparing_ns",
    "prepared_ns",
    "running_ns",
    "health_wait_ns",
    "paused_ns",
    "cpu_ns",
    "mem_peak_bytes",
    "events",
    "samples",
    "chunks",
    "gaps",
    "cleaned",
    "spec",
    "evidence",
    "idempotency_key",
    "recovered",
    "pruned",
]
KEPT = ("uid", "driver", "runner", "reason", "exit_code", "signal", "oom", "never_ran", "cpu_ns", "mem_peak_bytes")
"""What a tombstone keeps of a call whose events are emptied; states and times stay in the events themselves."""

_SPENT = {str(state): f"{state.replace('-', '_')}_ns" for state in State if not state.terminal}
_ENDED = ("reason", "message", "exit_code", "signal", "oom", "cpu_ns", "mem_peak_bytes")
_PREPARED = ("container", "image_id", "image_digest")
_FORGOTTEN = ("name", "image", *_PREPARED, "message", "evidence", "idempotency_key")
_BORN = dict.fromkeys(("never_ran", "gaps", "cleaned", "recovered", *_SPENT.values()), 0)
_NOTHING: dict[str, Any] = {}
_read = json.JSONDecoder().decode
_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # made once, not for each event


def fold(row: dict[str, Any], event: Event) -> dict[str, Any]:
    """`row` after `event`; start from {}. Pure: the same events give the same row, byte for byte."""
    row = dict(row) if row else begin()
    advance(row, *event)
    return row


def begin() -> dict[str, Any]:
    """The row of a call before its first event, for `advance`."""
    return dict.fromkeys(COLUMNS)


def advance(
    row: dict[str, Any],
    seq: int,
    at: int,
    kind: Kind,
    state: State,
    elapsed_ns: int | None,
    data: str,
    samples: int,
    chunks: int,
) -> None:
    """`fold` in place, with the fields of an event one by one: whole ledgers go through here."""
    # What only moves a call is not read as JSON: that would be the most of the time.
    if row["state"] != state and kind is not Kind.SUBMITTED:
        _move(row, at, state, elapsed_ns)
    if (change := _CHANGES.get(kind)) is not None:
        change(row, at, state, data)
    row["events"] = seq
    row["samples"] = samples
    row["chunks"] = chunks


def _move(row: dict[str, Any], at: int, state: State, elapsed_ns: int | None) -> None:
    # The monotonic span where one process saw both ends; else the wall clock, which may have been set back.
    spent = elapsed_ns if elapsed_ns is not None else max(0, at - row["entered_at"])
    row[_SPENT[row["state"]]] += spent
    row["state"] = str(state)
    row["entered_at"] = at


def _submit(row: dict[str, Any], at: int, state: State, data: str) -> None:
    # Of an emptied event only its place in time is left; its tombstone brings the rest.
    said = _read(data).get
    row.update(_BORN)
    row["uid"], row["name"], row["image"], row["driver"] = said("uid"), said("name"), said("image"), said("driver")
    row["idempotency_key"], row["runner"] = said("idempotency_key"), said("owner", _NOTHING).get("runner")
    row["spec"] = _text(said("spec", _NOTHING))
    row["state"] = str(state)
    row["created_at"] = row["entered_at"] = at


def _prepare(row: dict[str, Any], _at: int, _state: State, data: str) -> None:
    said = _read(data)
    for name in _PREPARED:
        row[name] = said.get(name)


def _start(row: dict[str, Any], at: int, _state: State, _data: str) -> None:
    row["started_at"] = at


def _end(row: dict[str, Any], at: int, _state: State, data: str) -> None:
    said = _read(data)
    for name in _ENDED:
        row[name] = said.get(name)
    row["ended_at"] = at
    row["never_ran"] = int(said.get("never_ran", False))
    row["evidence"] = _text(said.get("evidence", _NOTHING))


def _miss(row: dict[str, Any], _at: int, _state: State, _data: str) -> None:
    row["gaps"] += 1


def _clean(row: dict[str, Any], _at: int, _state: State, _data: str) -> None:
    row["cleaned"] = 1


def _adopt(row: dict[str, Any], _at: int, _state: State, data: str) -> None:
    row["runner"] = _read(data).get("owner", _NOTHING).get("runner")
    row["recovered"] = 1


def _prune(row: dict[str, Any], _at: int, _state: State, data: str) -> None:
    said = _read(data)
    parts = {part for part in ("samples", "output", "events") if part in said}
    row["pruned"] = ",".join(sorted(parts | set((row["pruned"] or "").split(",")) - {""}))
    if "events" in said:
        row.update((name, said["kept"].get(name)) for name in KEPT)
        row.update(dict.fromkeys(_FORGOTTEN), spec="{}")


_CHANGES: dict[Kind, Callable[[dict[str, Any], int, State, str], None]] = {
    Kind.SUBMITTED: _submit,
    Kind.PREPARED: _prepare,
    Kind.STARTED: _start,
    Kind.GAP: _miss,
    Kind.CLEANED: _clean,
    Kind.ADOPTED: _adopt,
    Kind.PRUNED: _prune,
    **dict.fromkeys(VERDICTS.values(), _end),
}
"""What an event of each kind changes apart from the state; the others say nothing that has a column."""
