"""Our terminal, where a process has one of its own: raw while that is typed to, and the size of both the same."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from driver.protocol import Resize
from machine.errors import SpecError


def require() -> None:
    """SpecError unless our standard input is a terminal: what is typed to a terminal must come from one."""
    if not os.isatty(0):
        raise SpecError("tty", "the input device is not a terminal (leave out --tty, or --interactive)")


class Modes:
    """The modes of the terminal at standard input. A context manager: at its end they are as they were."""

    def __init__(self) -> None:
        """They are as they shall be again."""
        self._before = termios.tcgetattr(0)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As they were. A terminal that is gone, or somebody else's by now, is left alone."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, self._before)

    def make_raw(self) -> None:
        """What is typed goes to the process as it is, Ctrl-C too, and what that writes to the terminal as well."""
        with contextlib.suppress(termios.error):
            tty.setraw(0, termios.TCSANOW)


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Our terminal is raw, and afterwards as it was."""
    with Modes() as modes:
        modes.make_raw()
        yield


def line_end() -> str:
    """What ends a line on standard error: a raw terminal does not go back to the beginning of one by itself."""
    with contextlib.suppress(termios.error, ValueError):
        if not termios.tcgetattr(sys.stderr.fileno())[1] & termios.OPOST:
            return "\r\n"
    return "\n"


def follow(resize: Resize) -> Callable[[], None]:
    """Let `resize` know whenever our terminal changes its size; -> what tells it the size as it is now.

    In a thread of its own, one size after the other. To be called in the main thread, which hears the signals.
    """
    changes: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal's handler may put something into it

    def changed(*_: object) -> None:
        changes.put(None)

    def pass_on() -> None:
        while True:
            changes.get()
            if (size := _size()) is not None:
                resize(*size)

    signal.signal(signal.SIGWINCH, changed)
    threading.Thread(target=pass_on, name="terminal", daemon=True).start()
    return changed


def _size() -> tuple[int, int] | None:
    """Rows and columns of our terminal; None without one, or when it does not know."""
    for descriptor in (1, 0):
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(descriptor)
            return (rows, columns) if rows and columns else None
    return None
