"""How fast something may go: a bucket of tokens, one a byte."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """At most `burst` bytes at once, and `rate` bytes a second in the long run."""

    def __init__(
        self,
        rate: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """The bucket is full. `clock` and `sleep` in seconds."""
        self._rate, self._burst = rate, burst
        self._clock, self._sleep = clock, sleep
        self._left, self._at = float(burst), clock()

    def spend(self, count: int) -> None:
        """Return when `count` more bytes may go."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - count
        self._at = now
        if self._left < 0:
            self._sleep(-self._left / self._rate)
