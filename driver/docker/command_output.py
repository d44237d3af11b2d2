"""The output of a command that the engine executes in a hot container.

The engine keeps no log of it: what is written after the connection broke is lost, and said to be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from driver.docker.streams import Attachment, early
from driver.protocol import OutputEnded, OutputResumed, Watcher
from driver.pump import Pump
from driver.scarcity import frugal


class CommandOutput:
    """Held back until it is known to be the command's, and not the engine's words about it."""

    def __init__(self, pump: Pump, watcher: Watcher, ended: Callable[[], None]) -> None:
        """`ended` is called at its end, after the watcher is told."""
        self._pump = pump
        self._watcher = watcher
        self._on_end = ended
        self._held: list[tuple[int, bytes]] | None = []
        self._lock = threading.Lock()
        self._attachment: Attachment | None = None
        self._told_broken = False
        self.over_at: int | None = None
        """Since when no more of it comes, ns."""

    def connect(self, raw: Any) -> None:
        """Read it from the connection that the engine has answered with, and send our standard input there."""
        attachment = Attachment(raw, self._take, self._end)
        with frugal():
            attachment.feed()
            begun = early(raw)
            if not begun or attachment.take(begun):
                self._attachment = attachment
                self._pump.add(attachment)
            else:
                attachment.close()

    def held(self) -> str:
        """What is held back, as one line."""
        return " ".join(b"".join(data for _, data in self._held or ()).decode(errors="replace").split())

    def let_go(self) -> None:
        """It is the command's: pass it on."""
        with self._lock:
            held, self._held = self._held or [], None
            for stream, data in held:
                self._watcher.output(stream, data)

    def tell_broken(self) -> None:
        """What was written since its end is lost. Said once, and when nothing more can be written."""
        with self._lock:
            told, self._told_broken = self._told_broken, True
        if not told and self.over_at is not None:
            now = time.time_ns()
            self._watcher.fact(OutputResumed(now, self.over_at))
            self._watcher.fact(OutputEnded(now))

    def close(self) -> None:
        """Let go of the connection."""
        if self._attachment is not None:
            self._pump.drop(self._attachment)

    def _take(self, stream: int, data: bytes) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append((stream, data))
                return
        self._watcher.output(stream, data)

    def _end(self) -> None:
        self.over_at = time.time_ns()
        self._watcher.fact(OutputEnded(self.over_at))
        self._on_end()
