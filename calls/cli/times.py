"""Moments as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from machine.errors import UsageError
from machine.units import duration

SLACK = 499_999
"""Times are shown to the millisecond, rounded: one that is given so means all that is shown with it."""
_NUMBER = re.compile(r"[\d.]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(text: str) -> int:
    """An ISO 8601 time, UTC unless it says otherwise -> ns since the epoch. ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def ago(option: str, text: str, now: int) -> int:
    """A time, or how long before `now` (`10m`) -> ns since the epoch. UsageError names the option."""
    for read in (nanoseconds, lambda span: now - duration(span)):
        try:
            if not _NUMBER.fullmatch(text):  # seconds, or a time in seconds? It must not be guessed
                return read(text)
        except ValueError:
            continue
    raise UsageError(f"{option}: {text!r} is no moment: write 10m, 90s, or a time (2025-10-09T08:54:21.5Z, UTC)")
