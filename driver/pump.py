"""One thread that reads the output of all calls: sockets and pipes, whichever has something."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """Something to read."""

    def fileno(self) -> int:
        """A descriptor that can be waited on; not blocking."""

    def ready(self) -> bool:
        """Read what is there; False at the end."""

    def close(self) -> None:
        """Let go of it."""


class Pump:
    """Waits on all sources at once. A slow consumer slows all of them down, and loses nothing."""

    def __init__(self) -> None:
        """The thread starts with the first source."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._commands: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, source: Source) -> None:
        """Read `source` until its end; then it is closed."""
        self._do(lambda: void(self._selector.register(source, selectors.EVENT_READ)))

    def drop(self, source: Source) -> None:
        """Stop reading `source` and close it, ended or not. Idempotent."""
        self._do(lambda: self._end(source))

    def close(self) -> None:
        """Drop all sources and end the thread. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._do(lambda: None)
        if self._thread is not None:
            self._thread.join()
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._selector.close()

    def _do(self, command: Callable[[], None]) -> None:
        # The selector belongs to the thread: others hand it commands.
        with self._lock:
            self._commands.append(command)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output-pump", daemon=True)
                self._thread.start()
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            os.write(self._wake_write, b"!")

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._obey()
                elif not self._ready(key.fileobj):  # type: ignore[arg-type]
                    self._end(key.fileobj)  # type: ignore[arg-type]
            if self._closing:
                for key in list(self._selector.get_map().values()):
                    if key.fd != self._wake_read:
                        self._end(key.fileobj)  # type: ignore[arg-type]
                return

    def _obey(self) -> None:
        with self._lock:
            commands, self._commands = self._commands, []
        for command in commands:
            command()

    def _ready(self, source: Source) -> bool:
        try:
            return source.ready()
        except (OSError, ValueError):
            return False

    def _end(self, source: Source) -> None:
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            return  # ended before
        source.close()


def void(_: object) -> None:
    """Throw a value away."""
