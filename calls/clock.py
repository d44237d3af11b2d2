"""Time, passed in wherever it is needed: so that it belongs to the test."""

from __future__ import annotations

import queue
import time
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Clock(Protocol):
    """Two readings in nanoseconds, and waiting. `driver.scripted.Schedule` is the virtual one."""

    def wall(self) -> int:
        """Since the epoch, UTC: for records."""

    def monotonic(self) -> int:
        """From an arbitrary start, never set back: for deadlines and durations."""

    def get(self, items: queue.SimpleQueue[Item], timeout_ns: int | None) -> Item:
        """The next item; queue.Empty when none comes in time."""


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    def monotonic(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()

    def get(self, items: queue.SimpleQueue[Item], timeout_ns: int | None) -> Item:
        """See `Clock`."""
        return items.get(timeout=None if timeout_ns is None else max(0, timeout_ns) / 1e9)
