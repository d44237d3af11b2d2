"""What happens to an open ledger behind our back: it is moved or deleted, forked, read for ever, written by others."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from ledger.sqlite import sqlite3
from machine.errors import LedgerError
from machine.units import show_size

MANY = 256 * 2**20
"""Bytes of WAL from which on a person is told, and again at each doubling: without long readers it stays at 4 MiB."""


class Place:
    """Where an open ledger is. A look costs a few microseconds."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """The file at `path` is the one that was opened just now. `warn` gets a line for a person."""
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._warn = warn
        self._process = os.getpid()
        self._files = self._found()
        self._gone = False
        self._many = MANY

    def forked(self) -> bool:
        """Whether this is a child of the process that opened it."""
        return os.getpid() != self._process

    def same_process(self) -> None:
        """LedgerError in a forked child: SQLite's locks are not inherited, and its thread that writes is not there."""
        if self.forked():
            raise LedgerError(f"the ledger {self._path} was opened before a fork: open it anew in this process")

    def same_file(self) -> None:
        """OSError when the ledger, or its WAL, is not there any more: what is written would be found by nobody."""
        if self._found() != self._files:
            raise OSError(errno.ESTALE, "it was moved or deleted while it was open")

    def glance(self) -> None:
        """Warn, once each, of what somebody ought to see to."""
        try:
            self.same_file()
        except OSError as error:
            if not self._gone:
                self._gone = True
                self._warn(f"cannot use the ledger {self._path}: {error.strerror}; no new calls are taken")
        else:
            self._gone = False
            self._weigh()

    def _weigh(self) -> None:
        size = _size(self._wal)
        if size < MANY:
            self._many = MANY
        elif size >= self._many:
            while size >= self._many:
                self._many *= 2
            grown = f"{self._wal} has grown to {show_size(size)}"
            self._warn(f"{grown}: somebody has been reading the ledger all the time; it can shrink when that ends")

    def _found(self) -> tuple[tuple[int, int] | None, ...]:
        return _identity(self._path), _identity(self._wal)


class Alone(sqlite3.Connection):
    """A connection that keeps other writers out while it is open: for a SQLite that loses what two of them write.

    The lock is on a file beside the ledger, which stays there: to delete it would be a race.
    """

    def __init__(self, path: Path, **options: object) -> None:
        """LedgerError when another one is open."""
        self._held = os.open(f"{path}-lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            super().__init__(path, **options)  # type: ignore[arg-type]
        except BaseException as error:
            os.close(self._held)
            if isinstance(error, BlockingIOError):
                raise LedgerError(
                    f"the ledger {path} is being written by another process, and SQLite {sqlite3.sqlite_version} can "
                    "lose what two of them write (the WAL-reset bug): pip install pysqlite3, or wait until it has ended"
                ) from error
            raise

    def close(self) -> None:
        """Let others write. Idempotent."""
        super().close()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
