"""Values as people read them: times, spans, sizes, and the data of an event on one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from machine.units import SECOND, show_duration, show_size


def short(uid: str) -> str:
    """The end of an id: those of one minute all begin alike."""
    return uid[-12:]


def state(call: Mapping[str, Any]) -> str:
    """The state, with a mark: "!" where memory ran out and the call went on, "?" where nobody watches any more."""
    mark = "!" if call["oom"] and call["state"] != "killed" else "?" if call.get("orphan") else ""
    return f"{call['state']}{mark}"


def span(seconds: float | None) -> str:
    """Seconds: `0.25s`, `1h30m`; nothing for None."""
    return "" if seconds is None else show_duration(round(seconds * SECOND))


def took(call: Mapping[str, Any]) -> str:
    """How long a call took, and in which states: `2.00s: preparing 0.25s, running 1.75s`."""
    spans = [f"{name} {span(spent)}" for name, spent in call["seconds"].items() if spent and name != "total"]
    return ": ".join(filter(None, (span(call["seconds"]["total"]), ", ".join(spans))))


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
    """The fields of a JSON object as `name=value …`, in people's units; what says nothing is left out."""
    told = {name: value for name, value in data.items() if value or (value == 0 and value is not False)}
    found = ((name, _value(name, value)) for name, value in told.items())
    return " ".join(f"{name.removesuffix('_ns').removesuffix('_bytes')}={text}" for name, text in found)


def _value(name: str, value: Any) -> str:
    if name in _SHOWN:
        return _SHOWN[name](value)
    if isinstance(value, str) and value.isprintable() and value and not set(value) & set(" \"'"):
        return value
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _clock(at: int) -> str:
    return f"{datetime.fromtimestamp(at / SECOND).astimezone():%H:%M:%S.%f}"[:-3]


def _hash(text: str) -> str:
    return text.removeprefix("sha256:")[:12]


def _security(options: Sequence[str]) -> str:
    """Without the text of a profile: `calls show --json` has it."""
    return _json([f"{text[:9]}…}}" if text.startswith("seccomp={") else text for text in options])


def _requester(by: Mapping[str, Any]) -> str:
    return f"{by['user']}@{by['host']}:{by['pid']} via={by['via']}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("timeout", "stop_timeout", "prepare_timeout", "health_timeout"), show_duration),
    **dict.fromkeys(("health_interval", "health_start_period", "health_probe_timeout"), show_duration),
    "pull_idle_timeout": show_duration,
    **dict.fromkeys(("sample", "limit", "cpu_ns"), show_duration),
    **dict.fromkeys(("memory", "memory_reservation", "shm_size", "log_limit", "mem_peak_bytes"), show_size),
    "security_opt": _security,
    **dict.fromkeys(("deadline", "engine_at", "since", "until", "started_at", "finished_at"), _clock),
    **dict.fromkeys(("container", "image_id", "image_digest"), _hash),
    "by": _requester,
}
