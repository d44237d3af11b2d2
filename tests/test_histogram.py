"""Decimation: whatever the samples look like, each is in exactly one bucket and nothing that stands out is lost."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.histogram import MAX_POINTS, Bucket, Point, Summary, decimate

REGULAR = Path(__file__).parent / "golden" / "decimate_regular.jsonl"
"""Regular samples, cut by Fn's `Decimate`: `in` and `out` are [[unix ns, {metric: value}], ...]."""
ALL = Path(__file__).parents[2] / "shared" / "golden" / "decimate.jsonl"
"""Every shape, those on which `Decimate` hangs or panics too: too large to be kept here."""

VALUES = st.none() | st.floats() | st.integers(-(2**64), 2**64) | st.sampled_from((10**400, -(10**400)))
METRICS = st.none() | st.dictionaries(st.sampled_from("xyz"), VALUES)
SERIES = st.lists(st.tuples(st.integers(0, 50), METRICS), max_size=60)
LIMITS = st.integers(1, 20)


def vectors(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None and (isinstance(value, int) or math.isfinite(value))]


def cut(series: list[Point], limit: int) -> list[tuple[Bucket, list[Point]]]:
    """The buckets, each with the samples that are in it: by their counts, which must cover them all."""
    buckets, begin, found = decimate(series, limit), 0, []
    for bucket in buckets:
        found.append((bucket, series[begin : begin + bucket.count]))
        begin += bucket.count
    return found


def cells(series: list[Point], limit: int) -> list[tuple[str, Summary | None, list[Any]]]:
    """Each metric in each bucket: its name, its summary, the values present."""
    found = []
    for bucket, points in cut(series, limit):
        for name in "xyz":
            values = present([metrics.get(name) for _, metrics in points if metrics])
            found.append((name, bucket.metrics.get(name), values))
    return found


def rounded(summary: Summary) -> bool:
    """Whether the mean is the least or the greatest value, but for rounding."""
    return any(math.isclose(summary.mean, bound, rel_tol=1e-12) for bound in (summary.min, summary.max))


# Buckets.


@given(SERIES, st.integers(-3, 20))
def test_there_are_exactly_as_many_buckets_as_samples_or_the_limit(series: list[Point], limit: int) -> None:
    assert len(decimate(series, limit)) == min(len(series), max(limit, 0))


@given(SERIES, LIMITS)
def test_sizes_differ_by_at_most_one(series: list[Point], limit: int) -> None:
    sizes = {bucket.count for bucket in decimate(series, limit)}
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(SERIES, LIMITS)
def test_every_sample_is_in_exactly_one_bucket(series: list[Point], limit: int) -> None:
    assert [point for _, points in cut(series, limit) for point in points] == series
    assert sum(bucket.count for bucket in decimate(series, limit)) == len(series)


@given(SERIES, LIMITS)
def test_order_is_kept_and_each_bucket_tells_its_first_and_last_time(series: list[Point], limit: int) -> None:
    for bucket, points in cut(series, limit):
        assert (bucket.t_first, bucket.t_last) == (points[0][0], points[-1][0])


@given(st.lists(st.just((7, {"x": 1.0})), max_size=600))
def test_equal_times_neither_hang_nor_collapse(series: list[Point]) -> None:
    assert len(decimate(series)) == min(len(series), MAX_POINTS)


@given(st.integers(1, 600))
def test_reversed_times_neither_hang_nor_collapse(count: int) -> None:
    series: list[Point] = [(count - number, {"x": number}) for number in range(count)]
    assert len(decimate(series)) == min(count, MAX_POINTS)


def test_a_gap_costs_no_resolution_and_stays_visible() -> None:
    day = 86_400 * 10**9
    series: list[Point] = [(number + day * (number == 479), {"x": 1}) for number in range(480)]
    buckets = decimate(series)
    assert len(buckets) == MAX_POINTS
    assert buckets[-1].t_last - buckets[-1].t_first > day


def test_samples_may_come_from_an_iterator() -> None:
    assert decimate(iter([(1, {"x": 1})])) == [Bucket(1, 1, 1, {"x": Summary(1, 1, 1, 1, 1)})]


# Values.


@given(SERIES, LIMITS)
def test_a_metric_is_there_exactly_when_a_value_of_it_is_present(series: list[Point], limit: int) -> None:
    assert [name for name, summary, values in cells(series, limit) if (summary is None) != (not values)] == []


@given(SERIES, LIMITS)
def test_counts_are_of_the_values_present(series: list[Point], limit: int) -> None:
    assert [
        (summary, values) for _, summary, values in cells(series, limit) if summary and summary.count != len(values)
    ] == []


@given(SERIES, LIMITS)
def test_the_peak_the_least_and_the_last_are_kept_exactly(series: list[Point], limit: int) -> None:
    for _, summary, values in cells(series, limit):
        if summary:
            assert (summary.min, summary.max, summary.last) == (min(values), max(values), values[-1])


@given(SERIES, LIMITS)
def test_the_mean_is_that_of_the_values_present(series: list[Point], limit: int) -> None:
    for _, summary, values in cells(series, limit):
        if summary:
            exact = sum(map(Fraction, values)) / len(values)
            largest = max(abs(Fraction(value)) for value in values)
            assert abs(Fraction(summary.mean) - exact) <= max(abs(exact) / 10**9, largest / 10**12, math.ulp(0.0))


@given(SERIES, LIMITS)
def test_the_mean_lies_between_the_least_and_the_peak(series: list[Point], limit: int) -> None:
    summaries = [summary for _, summary, _ in cells(series, limit) if summary]
    assert [one for one in summaries if not one.min <= one.mean <= one.max and not rounded(one)] == []


@pytest.mark.parametrize("absent", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_absent_and_dilutes_nothing(absent: float | None) -> None:
    (bucket,) = decimate([(1, {"x": 300}), (2, {"x": absent}), (3, {}), (4, None)], 1)
    assert bucket == Bucket(1, 4, 4, {"x": Summary(1, 300, 300, 300, 300)})


@pytest.mark.parametrize(
    "series", [[(1, None), (2, {})], [(1, {}), (2, {"x": None})], [(1, None), (2, {"x": math.nan})]]
)
def test_buckets_without_any_value_are_still_buckets(series: list[Point]) -> None:
    assert decimate(series, 1) == [Bucket(1, 2, 2, {})]


def test_a_metric_may_appear_after_the_first_sample_of_a_bucket() -> None:
    assert decimate([(1, None), (2, {"x": 5})], 1)[0].metrics == {"x": Summary(1, 5, 5, 5, 5)}


def test_integers_beyond_the_precision_of_floats_are_exact() -> None:
    large = 2**64 - 1
    (bucket,) = decimate([(1, {"x": large}), (2, {"x": large - 2})], 1)
    assert bucket.metrics["x"][1::2] == (large - 2, large)


def test_the_sum_of_large_integers_does_not_wrap() -> None:
    assert decimate([(1, {"x": 2**63}), (2, {"x": 2**63})], 1)[0].metrics["x"].mean == 2.0**63


def test_the_sum_of_large_floats_does_not_overflow() -> None:
    assert decimate([(1, {"x": 1e308}), (2, {"x": 1e308})], 1)[0].metrics["x"].mean == 1e308


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([10**400], 10**400),
        ([10**400, 10**400 + 2], 10**400 + 1),
        ([-(10**400), 10**400, 1.5], 0.5),
        ([10**400, 1.5], 5 * 10**399 + 1),
        ([10**400, float("nan"), float("inf")], 10**400),
    ],
)
def test_an_integer_may_be_larger_than_any_float(values: list[float], mean: float) -> None:
    assert decimate([(at, {"x": value}) for at, value in enumerate(values)], 1)[0].metrics["x"].mean == mean


def test_means_are_not_truncated() -> None:
    assert decimate([(1, {"x": 0}), (2, {"x": 1})], 1)[0].metrics["x"].mean == 0.5


@pytest.mark.parametrize("where", [0, 1234, 3599])
def test_a_single_peak_among_3600_samples_is_kept(where: int) -> None:
    series: list[Point] = [(second, {"x": 1_000_000 if second == where else 10}) for second in range(3600)]
    peaks = [bucket.metrics["x"].max for bucket in decimate(series)]
    assert (len(peaks), max(peaks), peaks.count(1_000_000)) == (240, 1_000_000, 1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=600))
def test_a_counter_keeps_its_total_in_the_last_bucket(steps: list[int]) -> None:
    total = 0
    series = [(second, {"x": (total := total + step)}) for second, step in enumerate(steps)]
    assert decimate(series)[-1].metrics["x"].last == sum(steps)


# The algorithm that this one comes from.


@pytest.mark.parametrize("vector", vectors(REGULAR), ids=lambda vector: f"{vector['name']}-to-{vector['max']}")
def test_on_regular_samples_the_buckets_are_those_of_fn(vector: dict[str, Any]) -> None:
    assert len(decimate(vector["in"], vector["max"])) == len(vector["out"])
    for (_, points), (at, _) in zip(cut(vector["in"], vector["max"]), vector["out"], strict=True):
        # Fn divides each time before it adds them up: early by less than a nanosecond a sample.
        assert 0 <= sum(time for time, _ in points) // len(points) - at < len(points)


@pytest.mark.parametrize("vector", vectors(REGULAR), ids=lambda vector: f"{vector['name']}-to-{vector['max']}")
def test_on_regular_samples_the_means_truncated_are_those_of_fn(vector: dict[str, Any]) -> None:
    means = [
        {name: math.trunc(summary.mean) for name, summary in bucket.metrics.items()}
        for bucket in decimate(vector["in"], vector["max"])
    ]
    assert means == [metrics for _, metrics in vector["out"]]


@pytest.mark.skipif(not ALL.exists(), reason="the whole set of vectors is not kept here")
def test_no_shape_that_fn_was_tried_with_breaks_this_one() -> None:
    for vector in vectors(ALL):
        series, limit = vector["in"], vector["max"]
        assert len(decimate(series, limit)) == min(len(series), max(limit, 0)), vector["name"]
        assert limit < 1 or [point for _, points in cut(series, limit) for point in points] == series, vector["name"]
