"""Durations, sizes and signals, as people write and read them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.signals import signal_name, signal_number
from machine.units import SECOND, duration, show_duration, show_size, size

MIB = 2**20

# Durations and sizes.


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [
        ("90", 90 * SECOND),
        (90, 90 * SECOND),
        ("1.5s", 3 * SECOND // 2),
        ("250ms", SECOND // 4),
        ("1h30m", 5400 * SECOND),
        ("1d", 86_400 * SECOND),
        ("1us1µs1ns", 2001),
        (" 5m ", 300 * SECOND),
        (timedelta(milliseconds=1500), 3 * SECOND // 2),
        (0, 0),
    ],
)
def test_durations(written: str | float | timedelta, nanoseconds: int) -> None:
    assert duration(written) == nanoseconds


@pytest.mark.parametrize("written", ["", "s", "5x", "5m-3s", "1h 30m", "-1s", "1e400", "inf", "1.2.3s", "292y"])
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|out of range"):
        duration(written)


@pytest.mark.parametrize(("written", "count"), [("65536", 65536), ("64m", 64 * MIB), ("1.5GiB", 1536 * MIB), (7, 7)])
def test_sizes(written: str | float, count: int) -> None:
    assert size(written) == count


@pytest.mark.parametrize("written", ["", "m", "5x", "-1", "5mm", "1e3", "nan", "9999999t"])
def test_what_is_no_size(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|out of range"):
        size(written)


@given(st.integers(0, 10**6), st.sampled_from(("ns", "us", "ms", "s", "m", "h")))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert duration(f"{number}{unit}") == number * duration(f"1{unit}")


@given(st.integers(0, 99 * 3600))
def test_whole_seconds_below_two_days_are_shown_so_that_they_can_be_read_back_to_the_minute(seconds: int) -> None:
    shown = duration(show_duration(seconds * SECOND)) // SECOND
    assert abs(shown - seconds) < (60 if seconds < 48 * 3600 else 3600)


@given(st.integers(0, 2**50))
def test_sizes_as_shown_are_read_back_to_a_tenth_of_their_unit(count: int) -> None:
    assert abs(size(show_size(count)) - count) <= max(1, count // 10)


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (0, "0.00s"),
        (SECOND // 4, "0.25s"),
        (12_300_000_000, "12.3s"),
        (300 * SECOND, "5m00s"),
        (5400 * SECOND, "1h30m"),
        (76 * 3600 * SECOND, "3d04h"),
    ],
)
def test_durations_as_shown(nanoseconds: int, shown: str) -> None:
    assert show_duration(nanoseconds) == shown


@pytest.mark.parametrize(
    "nanoseconds", [9_999_999_999, 59_999_999_999, 3599_900_000_000, 3600 * SECOND - 1, 172_799_999_999_999]
)
def test_rounding_never_shows_sixty_of_anything(nanoseconds: int) -> None:
    assert "60" not in show_duration(nanoseconds)


@pytest.mark.parametrize(
    ("count", "shown"), [(512, "512B"), (1536, "1.5KiB"), (64 * MIB, "64.0MiB"), (2**41, "2.0TiB")]
)
def test_sizes_as_shown(count: int, shown: str) -> None:
    assert show_size(count) == shown


# Signals.


@given(st.integers(1, 64))
def test_each_signal_is_known_by_number_name_and_full_name(number: int) -> None:
    name = signal_name(number)
    full = name if name.isdecimal() else f"sig{name}"
    assert {signal_number(form) for form in (number, str(number), name, name.lower(), full)} == {number}


@pytest.mark.parametrize("name", ["", "0", "65", "-9", "SIG", "SIG9", "KILLL", "SIG_DFL", 1.5])
def test_what_is_no_signal(name: Any) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        signal_number(name)
