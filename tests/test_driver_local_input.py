"""What a local process reads: nothing, or our own standard input as it comes."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from contract import FAILS, LIMIT, local
from processes import MIB, Prepare, preparing, starting

from driver.local import LocalDriver
from driver.protocol import STDOUT, Died, OutputEnded
from machine.units import SECOND


@pytest.fixture
def start() -> Iterator[Prepare]:
    """Prepare a command with options, and start it; -> its container, and the ear that hears of it."""
    with local() as stage:
        assert isinstance(stage.driver, LocalDriver)
        with preparing(stage.driver) as prepare:
            yield starting(prepare)


def test_without_interactive_the_input_is_empty(start: Prepare) -> None:
    """It reads the end at once, whatever our own input is."""
    _, ear = start("cat")
    assert ear.until(Died).exit_code == 0


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BufferedWriter]:
    """Writes to our standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stdin, os.fdopen(writing, "wb") as typist:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield typist


def test_input_is_passed_on_as_it_comes(start: Prepare, typist: io.BufferedWriter) -> None:
    """Not only at its end; and its end is passed on as well."""
    _, ear = start("cat", interactive=True)
    typist.write(b"first")
    typist.flush()
    ear.until_said(STDOUT, b"first")
    much = b"second" * (MIB // 4)
    typist.write(much)
    typist.close()
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"first" + much
    assert ear.until(Died).exit_code == 0


def test_input_after_the_end_is_left_for_the_next(start: Prepare, typist: io.BufferedWriter) -> None:
    """A call that has ended takes nothing from the one after it."""
    _, first = start(*FAILS, interactive=True)
    first.until(Died)
    _, second = start("cat", interactive=True)
    typist.write(b"for the second")
    typist.close()
    second.until(OutputEnded)
    assert second.said[STDOUT] == b"for the second"


def test_input_that_nobody_reads(start: Prepare, typist: io.BufferedWriter) -> None:
    """It is no error to stop reading before the input ends."""
    _, ear = start("sh", "-c", "exec <&-; echo closed; exec sleep 600", interactive=True)
    ear.until_said(STDOUT, b"closed")
    typist.write(b"to no avail")
    typist.close()
    for thread in threading.enumerate():
        if thread.name == "stdin":
            thread.join(LIMIT / SECOND)
            assert not thread.is_alive()


def test_input_from_memory(start: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard input is no file, what it holds is passed on."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from memory")))
    _, ear = start("cat", interactive=True)
    ear.until(OutputEnded)
    assert ear.said[STDOUT] == b"from memory"
