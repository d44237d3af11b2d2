"""How far long work has come: one line on the terminal, rewritten, and gone at the end."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

from machine.units import show_size

_EVERY = 0.1
"""Seconds between two looks of the line; writing it costs more than much of the work that it counts."""


class Progress:
    """A context manager. Nothing is shown where nobody watches (standard error is no terminal)."""

    def __init__(self, what: str) -> None:
        """`what` is done: `pruning`."""
        self._what = what
        self._watched = sys.stderr.isatty()
        self._next = 0.0
        self._dirty = False

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the line away."""
        if self._dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, done: int, of: int | None) -> None:
        """So much is done, of so much; of bytes it may not be known of how many."""
        if not self._watched or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        width = (os.get_terminal_size(2).columns or 80) - 1  # 0: the terminal does not know
        share = show_size(done) if of is None else f"{100 * done // max(of, 1)} %"
        sys.stderr.write("\r\x1b[K" + f"{self._what}: {share}"[:width])
        sys.stderr.flush()
        self._dirty = True
