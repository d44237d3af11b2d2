"""Output and input of a process of this host."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

_CHUNK = 64 * 1024


class Stream:
    """One pipe of output, as a source for the pump. `output` gets its number and data: nothing, at its end."""

    def __init__(self, pipe: IO[bytes], number: int, output: Callable[[int, bytes], None]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._number = number
        self._output = output
        self.fileno = pipe.fileno
        self.close = pipe.close

    def ready(self) -> bool:
        """Pass on what is there; False at the end."""
        try:
            data = os.read(self.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        self._output(self._number, data)
        return bool(data)


def feed(target: IO[bytes]) -> None:
    """Pass our standard input on, as long as somebody reads it; its end closes the process' input."""
    with suppress(OSError, ValueError), target:  # the process ended first, or our input was closed
        for data in _input(target.fileno()):
            view = memoryview(data)
            while view:
                view = view[target.write(view) :]


def _input(target: int) -> Iterator[bytes]:
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # not a file but in memory, where nothing is waited for
        yield sys.stdin.buffer.read()
        return
    # Not sys.stdin.buffer.read1(): that would take the first bytes of the next call's input after this
    # process has ended, and hold a lock which the interpreter needs to exit.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(target, 0)  # an error is told in any case: there is no reader any more
    while all(ready != target for ready, _ in poll.poll()) and (data := os.read(descriptor, _CHUNK)):
        yield data
