"""The one door to SQLite: which build, which pragmas, whose error.

SQLite 3.7.0 to 3.51.2 can lose commits when two connections write and checkpoint at once
(sqlite.org/wal.html, "the WAL-reset bug"; fixed in 3.51.3, 3.50.7 and 3.44.6). `pysqlite3` brings a
newer build and is preferred; with an affected one `calls doctor` says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ledger.failpoint import reach
from machine.errors import LedgerError

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "connect_reader",
    "connect_writer",
    "explain",
    "has_reset_bug",
    "sqlite3",
    "transaction",
]

APPLICATION_ID = 0x63616C6C
SCHEMA_VERSION = 2
BUSY_MS = 5000

_WRITER = (
    f"PRAGMA busy_timeout = {BUSY_MS}",  # first: the next ones may have to wait
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA journal_size_limit = 67108864",
)
_READER = (f"PRAGMA busy_timeout = {BUSY_MS}", "PRAGMA query_only = ON")


def has_reset_bug(version: tuple[int, ...] | None = None) -> bool:
    """Whether this SQLite has the WAL-reset bug."""
    version = version or sqlite3.sqlite_version_info
    if version >= (3, 51, 3) or version < (3, 7, 0):
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in ((3, 50, 7), (3, 44, 6)))


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open for appending; a missing or empty file becomes a ledger. Mode 0600, its folder 0700.

    LedgerError for what is not a ledger, is newer than this program, or cannot be written.
    """
    with explain(path):
        _touch(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            for pragma in _WRITER:
                connection.execute(pragma)
            if _version(connection, path) == 0:
                _create(connection)
            # Fails now if it is read-only. In WAL mode beginning alone does not: something must be written.
            connection.execute("BEGIN IMMEDIATE").execute(f"PRAGMA user_version = {SCHEMA_VERSION}").execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open for reading only: such a connection neither writes nor checkpoints. The file must exist."""
    with explain(path):
        if not path.exists():
            raise LedgerError(f"no ledger at {path} yet: record a call first (calls run IMAGE), or give --ledger FILE")
        _no_folder(path)
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        if not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
            uri += "&immutable=1"  # a WAL ledger on read-only ground: nobody can be writing it
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _READER:
                connection.execute(pragma)
            if _version(connection, path) == 0:
                raise LedgerError(f"{path} is empty: no call was recorded in it yet")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, name: str) -> Iterator[None]:
    """Everything inside happens, durably, or nothing does. Failpoints: `NAME.begun`, `NAME.written`, `NAME.durable`."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        reach(f"{name}.begun")
        yield
        reach(f"{name}.written")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # (a full disk has ended it already)
            connection.execute("ROLLBACK")
    reach(f"{name}.durable")


@contextmanager
def explain(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into one line that names the file and what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerError(f"cannot use the ledger {path}: {_hint(str(error), path)}") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path} is not a ledger, or is damaged: {error}") from error
    except OSError as error:
        raise LedgerError(f"cannot use the ledger {path}: {error.strerror or error}") from error


def _hint(message: str, path: Path) -> str:
    if message == "disk I/O error" and os.statvfs(path.parent).f_bavail == 0:
        message = "database or disk is full"  # a WAL that cannot grow is reported in this way
    hints = {
        "readonly": "it is read-only; give another file with --ledger",
        "unable to open": "it cannot be opened; check the folder and its permissions",
        "locked": "another process holds it locked; try again",
        "full": "the disk is full; make room and try again",
    }
    return next((f"{message} ({hint})" for word, hint in hints.items() if word in message), message)


def _no_folder(path: Path) -> None:
    # SQLite would call it an I/O error.
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _touch(path: Path) -> None:
    _no_folder(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _version(connection: sqlite3.Connection, path: Path) -> int:
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application == 0 and version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return 0
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is a SQLite file but not a ledger; give another file with --ledger")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: use a newer call-ledger"
        )
    return int(version)


def _create(connection: sqlite3.Connection) -> None:
    from importlib.resources import files
    from uuid import uuid4

    schema = files("ledger").joinpath("schema.sql").read_text(encoding="utf-8")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection, "create"):
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process may have been first
            for statement in statements(schema):
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('ledger', ?)", (str(uuid4()),))


def statements(script: str) -> Iterator[str]:
    """A script's statements, one by one: `executescript` would commit on its own, and it must be all or nothing."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def scalar(connection: sqlite3.Connection, statement: str, *values: Any) -> Any:
    """The first column of the first row, or None."""
    row = connection.execute(statement, values).fetchone()
    return None if row is None else row[0]
