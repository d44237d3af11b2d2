"""Decimation: a series of samples cut into at most `max_points` buckets, by count.

Cutting by count and not by time means that gaps, bursts, equal and reversed times cost no resolution:
every sample is in exactly one bucket, order is kept, and sizes differ by at most one. Where the length
is a multiple of `max_points` and the samples are regular, these are the bins that Fn's `Decimate` makes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

MAX_POINTS = 240

Point = tuple[int, Mapping[str, float | None] | None]
"""(time in ns, {metric: value or None})."""


class Summary(NamedTuple):
    """One metric in one bucket. `count` is how many samples had a value; counters are read by `last`.

    A mean that no float is large enough for is the nearest integer.
    """

    count: int  # type: ignore[assignment] # hides tuple.count, which nobody wants here
    min: float
    mean: float
    max: float
    last: float


class Bucket(NamedTuple):
    """`count` samples in a row, from the first's time to the last's; metrics that had no value are absent."""

    t_first: int
    t_last: int
    count: int  # type: ignore[assignment]
    metrics: dict[str, Summary]


def decimate(samples: Iterable[Point], max_points: int = MAX_POINTS) -> list[Bucket]:
    """`samples` in order -> exactly min(n, max_points) buckets (none when max_points is not positive).

    Bucket i of k holds samples i*n//k up to (i+1)*n//k. A value that is None or not finite is absent.
    """
    series = list(samples)
    return list(decimated(series, len(series), max_points))


def decimated(samples: Iterable[Point], count: int, max_points: int = MAX_POINTS) -> Iterator[Bucket]:
    """As `decimate`, of `count` samples that need not be in memory at once: a bucket at a time."""
    points, buckets = iter(samples), min(count, max(max_points, 0))
    for i in range(buckets):
        if bucket := list(islice(points, (i + 1) * count // buckets - i * count // buckets)):
            yield _bucket(bucket)


def _bucket(points: Sequence[Point]) -> Bucket:
    values: dict[str, list[float]] = {}
    for _, metrics in points:
        for name, value in (metrics or {}).items():
            if value is not None and (isinstance(value, int) or math.isfinite(value)):
                values.setdefault(name, []).append(value)
    summaries = {name: _summary(found) for name, found in values.items()}
    return Bucket(points[0][0], points[-1][0], len(points), summaries)


def _summary(values: list[float]) -> Summary:
    return Summary(len(values), min(values), _mean(values), max(values), values[-1])


def _mean(values: list[float]) -> float:
    count = len(values)
    try:
        if all(isinstance(value, int) for value in values):
            return sum(values) / count  # exact: Python's integers do not wrap
        return math.fsum(values) / count
    except OverflowError:
        from fractions import Fraction  # takes as long to load as all of this

        mean = sum(map(Fraction, values), Fraction()) / count
        return float(mean) if abs(mean) <= sys.float_info.max else round(mean)
