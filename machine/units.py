"""Durations and sizes as people write them. Durations are integer nanoseconds, sizes integer bytes."""

from __future__ import annotations

import re
from datetime import timedelta

SECOND = 1_000_000_000

_DURATION_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000}
_DURATION_UNITS |= {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86_400 * SECOND}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MAX = 2**63 - 1


def duration(value: str | float | timedelta) -> int:
    """`90`, `"90"`, `"1.5s"`, `"1h30m"` or a timedelta -> nanoseconds. ValueError when it is none of these."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION_PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return _bounded(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts), value)
        if not _SECONDS.fullmatch(text):
            raise ValueError(_not_a("duration", value, "90s, 5m, 1h30m or 250ms"))
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_not_a("duration", value, "90s, 5m, 1h30m or 250ms"))  # noqa: TRY004 - see the docstring
    return _bounded(value * SECOND, value)


def size(value: str | float) -> int:
    """`65536`, `"64m"`, `"1.5g"`, `"512KiB"` -> bytes (binary units, as Docker). ValueError otherwise."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(_not_a("size", value, "65536, 64m or 1.5g"))
        return _bounded(float(match[1]) * _SIZE_UNITS[match[2].lower()], value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_not_a("size", value, "65536, 64m or 1.5g"))  # noqa: TRY004
    return _bounded(value, value)


def _bounded(number: float, given: object) -> int:
    if not 0 <= number <= _MAX:  # NaN is neither
        raise ValueError(f"{given!r} is out of range")
    return round(number)


def _not_a(thing: str, given: object, examples: str) -> str:
    return f"{given!r} is not a {thing} (write {examples})"


def show_duration(nanoseconds: int) -> str:
    """Nanoseconds as people read them: `0.25s`, `12.3s`, `5m00s`, `1h30m`, `3d04h`."""
    seconds = nanoseconds / SECOND
    if seconds < 10:
        return f"{seconds:.2f}s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def show_size(count: float) -> str:
    """Bytes as people read them: `512B`, `1.5KiB`, `64.0MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}TiB"
