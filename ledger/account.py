"""One call as one object: which rows it is made of, what it looks like, and what calls are picked by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from machine.states import Kind, State

Row = dict[str, Any]

_SPENT = {str(state): f"{state.replace('-', '_')}_ns" for state in State if not state.terminal}
_LIVE_CPU = (
    "SELECT cpu_total_ns FROM sample WHERE call_id = call.id AND cpu_total_ns IS NOT NULL ORDER BY seq DESC LIMIT 1"
)
# Where the kernel keeps the peak, the latest reading has it; only elsewhere all samples must be looked at.
_LIVE_PEAK = (
    "SELECT coalesce((SELECT mem_peak_bytes FROM sample WHERE call_id = call.id ORDER BY seq DESC LIMIT 1), "
    "(SELECT max(mem_usage_bytes) FROM sample WHERE call_id = call.id))"
)
_SAID = "(SELECT iif(json_valid(data), data ->> '$.{}', NULL) FROM event WHERE call_id = call.id AND kind = {})"
CALLS = (
    f"SELECT *, {_SAID.format('network', tuple(Kind).index(Kind.PREPARED))} AS network, "
    f"{_SAID.format('ports', tuple(Kind).index(Kind.STARTED))} AS ports, "
    f"{_SAID.format('waited', Kind.ADMITTED.code)} AS waited, "
    f"{_SAID.format('lacking', Kind.ADMITTED.code)} AS lacking, "
    "iif(ended_at IS NULL, (SELECT max(seq) FROM sample WHERE call_id = call.id), samples) AS now_samples, "
    f"iif(ended_at IS NULL, ({_LIVE_CPU}), cpu_ns) AS now_cpu, "
    f"iif(ended_at IS NULL, ({_LIVE_PEAK}), mem_peak_bytes) AS now_peak FROM call"
)
"""Calls with what `account` needs. What a live call uses is not in `call` yet: its samples have it."""

FILTERS = {
    "state": "state = {0}",
    "reason": "reason = {0}",
    "name": "name GLOB {0}",
    "image": (
        "(image GLOB {0} OR image GLOB {0} || '@*' "
        "OR (image GLOB {0} || ':*' AND NOT image GLOB {0} || ':*/*'))"  # a port is not a tag
    ),
    "label": "EXISTS (SELECT 1 FROM json_each(spec, '$.label') WHERE {0} IN (key, key || '=' || value))",
}
"""What calls are picked by, and the condition on a value. Names and images may be patterns (`batch-*`)."""


def conditions(only: Sequence[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
    """Pairs of a key of FILTERS and a value -> a WHERE clause and its values.

    Values of one key are alternatives, as with `docker ps --filter`; labels must all be there.
    """
    alternatives: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for number, (key, value) in enumerate(only):
        values[f"only{number}"] = value
        group = f"label{number}" if key == "label" else key
        alternatives.setdefault(group, []).append(FILTERS[key].format(f":only{number}"))
    return " AND ".join(f"({' OR '.join(group)})" for group in alternatives.values()) or "true", values


def account(row: Mapping[str, Any], now: int) -> Row:
    """A row of CALLS as the object that `calls show --json` prints; a live call's time counts to `now`."""
    spent = {state: row[column] for state, column in _SPENT.items()}
    if row["ended_at"] is None:
        spent[row["state"]] += max(0, now - row["entered_at"])
    seconds = {state: span / 1e9 for state, span in {**spent, "total": sum(spent.values())}.items()}
    return {
        "id": row["uid"],
        **{name: row[name] for name in ("name", "image", "image_digest", "driver", "state", "reason")},
        **{name: row[name] for name in ("exit_code", "signal", "oom")},
        "never_ran": bool(row["never_ran"]),
        **{name: iso(row[name]) for name in ("created_at", "started_at", "ended_at")},
        "seconds": seconds,
        "waited_seconds": None if row["waited"] is None else row["waited"] / 1e9,
        "lacking": json.loads(row["lacking"] or "[]"),
        "cpu_seconds": None if row["now_cpu"] is None else row["now_cpu"] / 1e9,
        "mem_peak_bytes": row["now_peak"],
        "samples": row["now_samples"] or 0,
        "gaps": row["gaps"],
        "pruned": row["pruned"].split(",") if row["pruned"] else [],
        "evidence": json.loads(row["evidence"] or "{}"),
        **{name: row[name] for name in ("message", "container", "image_id", "network")},
        "ports": json.loads(row["ports"] or "{}"),
        "spec": json.loads(row["spec"]),
        "events": row["events"],
    }


def iso(at: int | None) -> str | None:
    """Nanoseconds since 1970 as the views show them: ISO 8601, UTC, rounded to milliseconds."""
    if at is None:
        return None
    seconds, milliseconds = divmod((at + 500_000) // 1_000_000, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
