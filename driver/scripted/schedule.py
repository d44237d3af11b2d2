"""A clock that stands still until somebody waits.

>>> schedule, heard = Schedule(), queue.SimpleQueue()
>>> schedule.at(3 * SECOND, lambda: heard.put("three seconds later"))
>>> schedule.get(heard, timeout_ns=None)
'three seconds later'
>>> schedule.monotonic()
3000000000
"""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from machine.units import SECOND

Item = TypeVar("Item")


class Schedule:
    """A virtual clock: see `calls.clock.Clock`. Time passes in `get` and `advance` and nowhere else."""

    def __init__(self, wall: int = 1_700_000_000 * SECOND) -> None:
        """`wall` is the time of day at the beginning (ns, UTC); the monotonic clock begins at 0."""
        self._begun = wall
        self._elapsed = 0
        self._order = itertools.count()
        self._due: list[tuple[int, int, Callable[[], object]]] = []

    def wall(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        return self._begun + self._elapsed

    def monotonic(self) -> int:
        """Nanoseconds since the schedule began."""
        return self._elapsed

    def at(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Do `action` in `delay_ns` from now, never before; at the same instant, in the order of asking."""
        heapq.heappush(self._due, (self._elapsed + max(0, delay_ns), next(self._order), action))

    def get(self, items: queue.SimpleQueue[Item], timeout_ns: int | None) -> Item:
        """The next item, letting time pass from one action to the next until there is one.

        queue.Empty, `timeout_ns` later, when there is none; what is due at that very instant still counts.
        RuntimeError when nothing is scheduled and no timeout would ever end the wait.
        """
        limit = None if timeout_ns is None else self._elapsed + max(0, timeout_ns)
        while True:
            with suppress(queue.Empty):
                return items.get_nowait()
            if self._due and (limit is None or self._due[0][0] <= limit):
                self._elapsed, _, action = heapq.heappop(self._due)
                action()
            elif limit is None:
                raise RuntimeError("nothing more is scheduled: the script would wait for ever")
            else:
                self._elapsed = limit
                raise queue.Empty

    def advance(self, span_ns: int) -> None:
        """Let `span_ns` go by, doing what is due."""
        with suppress(queue.Empty):
            self.get(queue.SimpleQueue[None](), span_ns)
