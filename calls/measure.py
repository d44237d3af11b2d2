"""The samples of one call that runs: each is recorded, and what its verdict needs of them is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from calls.clock import Clock
from calls.recorder import Recorder
from driver.protocol import Container, Sampling
from machine import facts
from machine.errors import DriverError
from machine.samples import Sample
from machine.spec import Spec
from machine.units import SECOND

_NEAR = 0.95


class SampleGap(NamedTuple):
    """No sample came between `since` and `at`, ns since the epoch."""

    at: int
    since: int


class Samples:
    """Of one call. `_take` is called by the sampler's thread, all else by the conductor's."""

    def __init__(
        self, spec: Spec, container: Container, recorder: Recorder, clock: Clock, gap: Callable[[SampleGap], None]
    ) -> None:
        """`gap` is told, from any thread, when no sample came in time."""
        self._limit = spec.memory
        self._wanted = spec.sample is not None
        self._interval = spec.sample or SECOND
        self._container = container
        self._recorder = recorder
        self._clock = clock
        self._gap = gap
        self._last: Sample | None = None
        self._last_at: int | None = None
        self._near_at: int | None = None  # the last one near the limit: a later one may be of what is left
        self.peak = 0
        """The highest memory so far, bytes."""

    def begin(self, sampling: Sampling) -> None:
        """From now on."""
        began = self._clock.wall()
        try:
            expected = self._container.observe(sampling, self._interval, self._take)
        except DriverError as error:
            self._recorder.apply(facts.Gap(of="samples", since=began, until=began, why=str(error)))
        else:
            self._interval = expected or self._interval
            if expected is not None and self._last_at is None:
                self._last_at = began  # one that never comes is missing from then on

    def _take(self, at: int, sample: Sample) -> None:
        self._mind_gap(at)
        self._recorder.sample(at, sample)
        self._last, self._last_at = sample, at
        before, self.peak = self.peak, max(self.peak, sample.mem_peak_bytes or 0, sample.mem_usage_bytes or 0)
        # Of a short call nothing else is known: an engine may not hear that memory ran out if all of it ends then.
        # But what is cached alone never is the reason: the kernel takes that back before it kills.
        used = sample.mem_usage_bytes
        used = self.peak - (sample.mem_cache_bytes or 0) if used is None else used
        reached = before < (self._limit or 0) <= self.peak and self._is_near(used)
        if reached or self._is_near(sample.mem_rss_bytes or 0):
            self._near_at = at

    def _is_near(self, used: int) -> bool:
        return self._limit is not None and used >= _NEAR * self._limit

    def _mind_gap(self, at: int) -> None:
        if self._last_at is not None and at - self._last_at > 2 * self._interval:
            self._gap(SampleGap(at, self._last_at))

    def end(self) -> Sample | None:
        """Take no more; -> the totals, where nothing has them the last sample. None when none were wanted."""
        if not self._wanted:
            return None
        final = self._container.totals()
        if final is not None:
            self._take(self._clock.wall(), final)
        else:
            self._mind_gap(self._clock.wall())
        return final or self._last

    def note_lost(self) -> None:
        """Record how many could not be."""
        if self._wanted and (lost := self._recorder.dropped()):
            now = self._clock.wall()
            self._recorder.apply(facts.Gap(of="samples", since=now, until=now, why="the queue was full", lost=lost))

    @property
    def near_limit(self) -> bool:
        """Whether memory was close to its limit at the last, and nothing since says otherwise."""
        recently = (self._last_at or 0) - max(SECOND // 2, 2 * self._interval)
        return self._near_at is not None and self._near_at >= recently
