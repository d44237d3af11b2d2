"""A terminal to sit at, and `calls` on it: a session of its own, as a terminal emulator makes one."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import running
from running import LIMIT, hear

CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard input the terminal that controls what is executed then."""


class Terminal(NamedTuple):
    """`ours` is our end, `theirs` that of a process."""

    ours: int
    theirs: int

    def type(self, text: bytes) -> None:
        """As a person does."""
        os.write(self.ours, text)

    def hear(self, text: bytes) -> bytes:
        """Wait for it on the screen."""
        return hear(self.ours, text)

    def resize(self, rows: int, columns: int) -> None:
        """Make it that large."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def raw(self) -> bool:
        """Whether what is typed is passed on as it is."""
        return not termios.tcgetattr(self.theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    @contextmanager
    def under(self, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """`calls WORD...` on it; afterwards its modes are as before."""
        before = termios.tcgetattr(self.theirs)
        command = [sys.executable, "-c", CONTROLLED, *running.COMMAND, *words]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        with subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **streams) as process:
            try:
                yield process
                process.wait(LIMIT)
            finally:
                process.kill()
        assert termios.tcgetattr(self.theirs) == before


def screen(ours: int) -> bytes:
    """All that comes to the screen until nobody has the terminal any more: the kernel may hand it over in pieces."""
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # how Linux says that the other side is closed
        pass
    return shown


@contextmanager
def opened() -> Iterator[Terminal]:
    """One of 33 rows and 99 columns."""
    terminal = Terminal(*pty.openpty())
    terminal.resize(33, 99)
    try:
        yield terminal
    finally:
        for descriptor in terminal:
            os.close(descriptor)
