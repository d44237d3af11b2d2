"""The scripted driver's clock: time belongs to the test, and passes only where somebody waits."""

from __future__ import annotations

import doctest
import queue

import pytest

from driver.scripted import Schedule, schedule


def test_the_example_in_the_docstring() -> None:
    """What is documented is executed."""
    failed, attempted = doctest.testmod(schedule)
    assert (failed, attempted > 0) == (0, True)


def test_what_is_there_takes_no_time() -> None:
    """An item that waits already is given at once, before anything that is due."""
    schedule, items = Schedule(), queue.SimpleQueue[str]()
    schedule.at(0, lambda: items.put("later"))
    items.put("now")
    assert [schedule.get(items, 0), schedule.get(items, 0)] == ["now", "later"]
    assert schedule.monotonic() == 0


def test_time_passes_up_to_the_item_and_no_further() -> None:
    """Actions in between happen on the way, each at its time; both clocks go together."""
    schedule, items, times = Schedule(wall=1000), queue.SimpleQueue[str](), list[int]()
    schedule.at(30, lambda: items.put("item"))
    schedule.at(20, lambda: times.append(schedule.wall()))
    schedule.at(10, lambda: schedule.at(5, lambda: times.append(schedule.wall())))
    schedule.at(40, lambda: times.append(schedule.wall()))
    assert schedule.get(items, 100) == "item"
    assert times == [1015, 1020]
    assert (schedule.monotonic(), schedule.wall()) == (30, 1030)


def test_a_timeout_takes_just_its_time() -> None:
    """And leaves what is due later for later."""
    schedule, items = Schedule(), queue.SimpleQueue[str]()
    schedule.at(11, lambda: items.put("late"))
    with pytest.raises(queue.Empty):
        schedule.get(items, 10)
    assert schedule.monotonic() == 10
    assert schedule.get(items, 10) == "late"
    assert schedule.monotonic() == 11


def test_what_is_due_with_the_timeout_is_in_time() -> None:
    """At one and the same instant the item wins; and first come is first served."""
    schedule, items = Schedule(), queue.SimpleQueue[str]()
    for name in ("a", "b"):
        schedule.at(10, lambda name=name: items.put(name))  # type: ignore[misc]
    assert [schedule.get(items, 10), schedule.get(items, 0)] == ["a", "b"]


def test_waiting_for_ever_is_an_error() -> None:
    """A test that would hang says so instead."""
    with pytest.raises(RuntimeError, match="wait for ever"):
        Schedule().get(queue.SimpleQueue(), None)


@pytest.mark.parametrize("delay", [0, -5])
def test_time_never_goes_back(delay: int) -> None:
    """A delay or a timeout below zero is none."""
    schedule, items = Schedule(), queue.SimpleQueue[str]()
    schedule.advance(7)
    schedule.at(delay, lambda: items.put("item"))
    assert schedule.get(items, None) == "item"
    with pytest.raises(queue.Empty):
        schedule.get(items, delay)
    assert schedule.monotonic() == 7
