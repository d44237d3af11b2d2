"""The projection: one row a call, folded from its events and from nothing else."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from machine.states import Kind, State


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

_SPENT = {state: f"{state.replace('-', '_')}_ns" for state in State if not state.terminal}
_ENDED = ("reason", "message", "exit_code", "signal", "oom", "cpu_ns", "mem_peak_bytes")
_PREPARED = ("container", "image_id", "image_digest")
_FORGOTTEN = ("name", "image", *_PREPARED, "message", "evidence", "idempotency_key")


def fold(row: dict[str, Any], event: Event) -> dict[str, Any]:
    """`row` after `event`; start from {}. Pure: the same events give the same row, byte for byte."""
    row = dict(row) if row else dict.fromkeys(COLUMNS)
    data = json.loads(event.data)
    if event.kind is Kind.SUBMITTED:
        _submit(row, event, data)
    elif row["state"] != event.state:
        _move(row, event)
    if event.kind is Kind.PREPARED:
        row.update((name, data.get(name)) for name in _PREPARED)
    elif event.kind is Kind.STARTED:
        row["started_at"] = event.at
    elif event.kind is Kind.GAP:
        row["gaps"] += 1
    elif event.kind is Kind.CLEANED:
        row["cleaned"] = 1
    elif event.kind is Kind.ADOPTED:
        row.update(runner=data.get("owner", {}).get("runner"), recovered=1)
    elif event.kind is Kind.PRUNED:
        _prune(row, data)
    elif event.state.terminal and row["ended_at"] is None:
        row.update((name, data.get(name)) for name in _ENDED)
        row.update(ended_at=event.at, never_ran=int(data.get("never_ran", False)))
        row["evidence"] = _text(data.get("evidence", {}))
    row.update(events=event.seq, samples=event.samples, chunks=event.chunks)
    return row


def _submit(row: dict[str, Any], event: Event, data: dict[str, Any]) -> None:
    # Of an emptied event only its place in time is left; its tombstone brings the rest.
    row.update((name, data.get(name)) for name in ("uid", "name", "image", "driver", "idempotency_key"))
    row.update(runner=data.get("owner", {}).get("runner"), spec=_text(data.get("spec", {})), state=str(event.state))
    row.update(created_at=event.at, entered_at=event.at, never_ran=0, gaps=0, cleaned=0, recovered=0)
    row.update(dict.fromkeys(_SPENT.values(), 0))


def _move(row: dict[str, Any], event: Event) -> None:
    # The monotonic span where one process saw both ends; else the wall clock, which may have been set back.
    spent = event.elapsed_ns if event.elapsed_ns is not None else max(0, event.at - row["entered_at"])
    row[_SPENT[State(row["state"])]] += spent
    row.update(state=str(event.state), entered_at=event.at)


def _prune(row: dict[str, Any], data: dict[str, Any]) -> None:
    parts = {part for part in ("samples", "output", "events") if part in data}
    row["pruned"] = ",".join(sorted(parts | set((row["pruned"] or "").split(",")) - {""}))
    if "events" in data:
        row.update((name, data["kept"].get(name)) for name in KEPT)
        row.update(dict.fromkeys(_FORGOTTEN), spec="{}")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
