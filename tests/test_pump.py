"""The pump: every source is read to its end and closed once, and a closed pump touches nothing."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator

import pytest
from running import LIMIT

from driver.pump import Pump


class Pipe:
    """A source: what is written to `target` comes out of `heard`, b"" at the end; `closed` counts."""

    def __init__(self) -> None:
        source, self.target = os.pipe()
        os.set_blocking(source, False)
        self._source = source
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.closed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def fileno(self) -> int:
        return self._source

    def ready(self) -> bool:
        data = os.read(self._source, 65536)
        self.heard.put(data)
        return bool(data)

    def close(self) -> None:
        os.close(self._source)
        self._source = -1
        self.closed.put(None)


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump()
    yield pump
    pump.close()


def test_read_to_the_end_and_closed_once(pump: Pump) -> None:
    pipe = Pipe()
    pump.add(pipe)
    os.write(pipe.target, b"one")
    assert pipe.heard.get(timeout=LIMIT) == b"one"
    os.close(pipe.target)
    assert pipe.heard.get(timeout=LIMIT) == b""
    pipe.closed.get(timeout=LIMIT)
    pump.drop(pipe)
    pump.close()
    assert pipe.closed.empty()


def test_what_is_dropped_is_closed_and_not_read(pump: Pump) -> None:
    pipe, other = Pipe(), Pipe()
    pump.add(pipe)
    pump.add(other)
    pump.drop(pipe)
    pipe.closed.get(timeout=LIMIT)
    with pytest.raises(BrokenPipeError):
        os.write(pipe.target, b"too late")
    os.write(other.target, b"goes on")
    assert other.heard.get(timeout=LIMIT) == b"goes on"
    assert pipe.heard.empty()
    for target in (pipe.target, other.target):
        os.close(target)


def test_a_source_that_fails_is_at_its_end(pump: Pump) -> None:
    class Broken(Pipe):
        def ready(self) -> bool:
            raise OSError("connection reset")

    pipe = Broken()
    pump.add(pipe)
    os.write(pipe.target, b"x")
    pipe.closed.get(timeout=LIMIT)
    os.close(pipe.target)


def test_closing_drops_all_and_ends_the_thread(pump: Pump) -> None:
    pipes = [Pipe(), Pipe()]
    for pipe in pipes:
        pump.add(pipe)
    pump.close()
    pump.close()
    for pipe in pipes:
        assert pipe.closed.qsize() == 1
        os.close(pipe.target)
    assert "output-pump" not in [thread.name for thread in threading.enumerate()]


def test_a_pump_that_was_never_used_can_be_closed(pump: Pump) -> None:
    pump.close()


def test_after_the_close_nobody_elses_descriptor_is_touched(pump: Pump) -> None:
    """The numbers that the pump had may be those of a stranger by then."""
    pipe, late = Pipe(), Pipe()
    pump.add(pipe)
    pump.close()
    strangers = [os.pipe() for _ in range(8)]
    pump.drop(pipe)
    pump.drop(late)
    pump.add(late)
    assert (pipe.closed.qsize(), late.closed.qsize()) == (1, 1)
    for source, target in strangers:
        os.set_blocking(source, False)
        with pytest.raises(BlockingIOError):
            os.read(source, 1)
        os.close(source)
        os.close(target)
    for target in (pipe.target, late.target):
        os.close(target)
