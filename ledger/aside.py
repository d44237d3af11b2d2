"""Reading on ground where nothing can be written: from a copy, which is gone when its connection is closed."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from ledger.migrations import migrate
from ledger.sqlite import sqlite3


def aside(path: Path) -> sqlite3.Connection:
    """A copy of a ledger with a WAL: SQLite reads one only where it can make an index for it."""
    with TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{folder}/ledger{suffix}")
        with closing(sqlite3.connect(f"{folder}/ledger")) as source:
            return _copied(source)


def migrated(source: sqlite3.Connection) -> sqlite3.Connection:
    """A copy of an older ledger, brought up to this version."""
    copy = _copied(source)
    try:
        migrate(copy)
    except BaseException:
        copy.close()
        raise
    return copy


def _copied(source: sqlite3.Connection) -> sqlite3.Connection:
    # A database without a name is a temporary one: in memory, and in a temporary file as far as it is large.
    copy = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    try:
        source.backup(copy)
    except BaseException:
        copy.close()
        raise
    return copy
