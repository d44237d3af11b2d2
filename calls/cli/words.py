"""Values as people read them: times, spans, sizes, and the data of an event on one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from machine.units import SECOND, show_duration, show_size

_DURATIONS = frozenset(
    (
        *("timeout", "stop_timeout", "prepare_timeout", "health_timeout", "sample", "limit", "cpu_ns"),
        *("health_interval", "health_start_period", "health_probe_timeout"),
    )
)
_SIZES = frozenset(("memory", "log_limit", "mem_peak_bytes"))
_INSTANTS = frozenset(("deadline", "engine_at", "since", "until", "started_at", "finished_at"))
_HASHES = frozenset(("container", "image_id", "image_digest"))


def short(uid: str) -> str:
    """The end of an id: those of one minute all begin alike."""
    return uid[-12:]


def state(call: Mapping[str, Any]) -> str:
    """The state, with a mark where memory ran out although the call was not killed for it."""
    return f"{call['state']}!" if call["oom"] and call["state"] != "killed" else str(call["state"])


def span(seconds: float | None) -> str:
    """Seconds: `0.25s`, `1h30m`; nothing for None."""
    return "" if seconds is None else show_duration(round(seconds * SECOND))


def size(count: float | None) -> str:
    """Bytes: `1.5KiB`; nothing for None."""
    return "" if count is None else show_size(count)


def when(text: str | None) -> str:
    """An ISO time as local time, without the date where it is today's; nothing for None."""
    if text is None:
        return ""
    moment = datetime.fromisoformat(text).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"


def pairs(data: Mapping[str, Any]) -> str:
    """The fields of a JSON object as `name=value …`, in the units of people."""
    found = ((name, _value(name, value)) for name, value in data.items() if value is not None)
    return " ".join(f"{name.removesuffix('_ns').removesuffix('_bytes')}={text}" for name, text in found)


def _value(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if name in _DURATIONS:
            return show_duration(value)
        if name in _SIZES:
            return show_size(value)
        if name in _INSTANTS:
            return f"{datetime.fromtimestamp(value / SECOND).astimezone():%H:%M:%S.%f}"[:-3]
    if name in _HASHES:
        return str(value).removeprefix("sha256:")[:12]
    if name == "by":
        return f"{value['user']}@{value['host']}:{value['pid']} via={value['via']}"
    if isinstance(value, str) and value.isprintable() and value and not set(value) & set(" \"'"):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
