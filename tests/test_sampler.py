"""The sampler's thread: the fault of one call's meter is not that of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from running import until

from driver.sampler import Sampler
from machine.samples import Sample
from machine.units import SECOND


class Counting:
    """A meter of how often it was read. The reading number `fails` fails."""

    def __init__(self, fails: int = 0) -> None:
        self.read_times = 0
        self.fails = fails
        self.closed = False

    def read(self) -> Sample:
        """Another one."""
        self.read_times += 1
        if self.read_times == self.fails:
            raise ValueError("not a number")
        return Sample(pids=self.read_times)

    def close(self) -> None:
        """See `Meter`."""
        self.closed = True


@pytest.fixture
def sampler() -> Iterator[Sampler]:
    """It is closed afterwards."""
    sampler = Sampler()
    yield sampler
    sampler.close()


def test_a_meter_that_fails_ends_its_own_samples_and_nobody_elses(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    broken, whole, taken = Counting(fails=2), Counting(), list[Sample]()
    end = sampler.add(broken, SECOND // 1000, lambda _, sample: taken.append(sample))
    sampler.add(whole, SECOND // 1000, lambda *_: None)
    until(lambda: told, "the fault")
    before = whole.read_times
    until(lambda: whole.read_times > before + 1, "two readings more of the other")
    assert [(hooked.exc_type, str(hooked.exc_value)) for hooked in told] == [(ValueError, "not a number")]
    assert (broken.read_times, len(taken)) == (2, 1)
    end()
    assert broken.closed


def test_a_sink_that_fails_does_so_too(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    sampler.add(first := Counting(), SECOND // 1000, lambda *_: 1 // 0)
    until(lambda: told, "the fault")
    sampler.add(second := Counting(), SECOND // 1000, lambda *_: None)
    until(lambda: second.read_times > 1, "readings of the next")
    assert first.read_times == 1
