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

    def open(self) -> None:
        """Start the thread now: from here on `add` cannot fail for want of one."""
        self._do(lambda: None)

    def add(self, source: Source) -> None:
        """Read `source` until its end; then it is closed. A closed pump reads nothing and closes it at once."""
        if not self._do(lambda: void(self._selector.register(source, selectors.EVENT_READ))):
            source.close()

    def drop(self, source: Source) -> None:
        """Stop reading `source` and close it, ended or not. Idempotent; `close` has dropped all of them."""
        self._do(lambda: self._end(source))

    def close(self) -> None:
        """Drop all sources and end the thread. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._wake()
        if self._thread is not None:
            self._thread.join()
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._selector.close()

    def _do(self, command: Callable[[], None]) -> bool:
        # The selector belongs to the thread: others hand it commands, as long as it is there.
        with self._lock:
            if self._closing:
                return False
            self._commands.append(command)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output-pump", daemon=True)
                self._thread.start()
            self._wake()
            return True

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            os.write(self._wake_write, b"!")

    def _run(self) -> None:
        while True:
            ready = [key for key, _ in self._selector.select()]
            for key in ready:
                if key.fd != self._wake_read and not self._ready(key.fileobj):  # type: ignore[arg-type]
                    self._end(key.fileobj)  # type: ignore[arg-type]
            if any(key.fd == self._wake_read for key in ready):  # last: what is dropped must not be read after it
                os.read(self._wake_read, 4096)
                self._obey()
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
