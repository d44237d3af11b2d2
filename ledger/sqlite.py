"""The one door to SQLite: which build, which pragmas, whose error.

SQLite 3.7.0 to 3.51.2 can lose commits when two connections write and checkpoint at once
(sqlite.org/wal.html, "the WAL-reset bug"; fixed in 3.51.3, 3.50.7 and 3.44.6). `pysqlite3` brings a
newer build and is preferred; with an affected one `calls doctor` says so.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ledger.failpoint import reach
from machine.errors import LedgerError, UsageError

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
    "damaged",
    "explain",
    "has_reset_bug",
    "sound",
    "sqlite3",
    "suspect",
    "transaction",
]

APPLICATION_ID = 0x63616C6C
SCHEMA_VERSION = 2
BUSY_MS = 5000
DERIVED = ("call", "histogram")
"""The tables that can be made again."""
_OTHERS = ("meta", "state", "kind", "rule", "metric", "event", "sample", "log", "lease")

_WRITER = (
    f"PRAGMA busy_timeout = {BUSY_MS}",  # first: the next ones may have to wait
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA journal_size_limit = 67108864",
)
_PUZZLED = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What values that no whole ledger holds lead to."""
_DAMAGE = ("no such", "malformed", "Could not decode", "vtable", "database corruption")
"""How messages begin that SQLite and its binding do not count as damage, and that a whole ledger never gives."""


def has_reset_bug(version: tuple[int, ...] | None = None) -> bool:
    """Whether this SQLite has the WAL-reset bug."""
    version = version or sqlite3.sqlite_version_info
    if version >= (3, 51, 3) or version < (3, 7, 0):
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in ((3, 50, 7), (3, 44, 6)))


def connect_writer(path: Path, *, derived: bool = True) -> sqlite3.Connection:
    """Open for appending; a missing or empty file becomes a ledger (mode 0600, folder 0700), an older one is migrated.

    LedgerError for what is not a ledger, is newer than this program, damaged at first sight, or cannot be written.
    Without `derived` the tables that are derived need not be there.
    """
    with explain(path):
        _touch(path)
        whole = path.absolute()  # else SQLite would take `file:x` for a URI, and `:memory:` for no file
        connection = _kind()(whole, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            for pragma in _WRITER:
                connection.execute(pragma)
            version = _version(connection, path)
            if version == 0:
                _create(connection)
            else:
                _log_ahead(connection)
                if version < SCHEMA_VERSION:
                    _migrate(connection)
            _look(connection, (*_OTHERS, *DERIVED) if derived else _OTHERS)
            # Fails now if it is read-only. In WAL mode beginning alone does not: something must be written.
            connection.execute("BEGIN IMMEDIATE").execute(f"PRAGMA user_version = {SCHEMA_VERSION}").execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return connection


def _kind() -> type[sqlite3.Connection]:
    if not has_reset_bug():
        return sqlite3.Connection
    from ledger.surroundings import Alone

    return Alone


def connect_reader(path: Path, *, as_is: bool = False, cut: bool = False) -> sqlite3.Connection:
    """Open for reading only: such a connection neither writes nor checkpoints. The file must exist.

    An older ledger is migrated first. Where it cannot be written it is read from a migrated copy, which lives as long
    as the connection. `as_is`: whatever its version. `cut`: even if its end is missing; what was there is an error.
    """
    with explain(path):
        if not path.exists():
            raise LedgerError(f"no ledger at {path} yet: record a call first (calls run IMAGE), or give --ledger FILE")
        _ordinary(path)
        connection = _open_reader(path)
        try:
            if cut:
                connection.execute("PRAGMA writable_schema = ON")  # else SQLite refuses a file shorter than it says
            version = _version(connection, path)
            if version == 0:
                raise LedgerError(f"{path} is empty: no call was recorded in it yet")
            if version < SCHEMA_VERSION and not as_is:
                connection = _migrated(connection, path)
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def _open_reader(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    if not os.access(path.parent, os.W_OK):
        if not Path(f"{path}-wal").exists():
            uri += "&immutable=1"  # a WAL ledger on read-only ground: nobody can be writing it
        elif not Path(f"{path}-shm").exists():
            from ledger.aside import aside

            return aside(path)
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


def _migrated(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """An open reader of an older ledger -> a reader of a migrated one; the first is closed, except on an error."""
    try:
        connect_writer(path).close()
    except LedgerError as error:
        if not _is_read_only(error.__cause__):
            raise
        from ledger.aside import migrated

        reader = migrated(connection)
    else:
        reader = _open_reader(path)
    connection.close()
    return reader


def _is_read_only(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # (one that a failpoint raises has none)
        return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


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
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and not str(error).startswith(_DAMAGE):
            raise LedgerError(f"cannot use the ledger {path}: {_hint(str(error), path)}") from error
        raise damaged(path, error) from error
    except UnicodeDecodeError as error:  # of SQLite's own message: it names what it could not make sense of
        raise damaged(path, error) from error
    except UnicodeEncodeError as error:
        raise UsageError("a text contains bytes that are not UTF-8: no ledger can take them") from error
    except OSError as error:
        raise LedgerError(f"cannot use the ledger {path}: {error.strerror or error}") from error


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """As `explain`, for what is made of the values that were read."""
    try:
        yield
    except _PUZZLED as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def suspect(connection: sqlite3.Connection, path: Path, error: BaseException | None) -> None:
    """LedgerError when an error that nobody expected came of a file that SQLite itself finds damaged."""
    if isinstance(error, _PUZZLED):
        with explain(path):
            found = scalar(connection, "PRAGMA quick_check(1)")
        if found != "ok":
            raise damaged(path, found) from error


def damaged(path: Path, why: object) -> LedgerError:
    """The error for a file that says what no ledger says."""
    hint = "calls verify says what is still good, calls salvage saves it"
    return LedgerError(f"{path} is not a ledger, or is damaged: {why} ({hint})")


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


def _ordinary(path: Path) -> None:
    # SQLite would call a folder an I/O error, and wait for the lock of a device.
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")


def _touch(path: Path) -> None:
    _ordinary(path)
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # mkdir would say that it exists
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    elif path.stat().st_size == 0:
        path.chmod(0o600)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application == 0 and version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return 0
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is a SQLite file but not a ledger; give another file with --ledger")
    if version < 1:
        raise damaged(path, f"schema version {version}")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}: use a newer call-ledger"
        )
    return int(version)


def _create(connection: sqlite3.Connection) -> None:
    from uuid import uuid4

    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    _log_ahead(connection)
    with transaction(connection, "create"):
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process may have been first
            for statement in schema():
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('ledger', ?)", (str(uuid4()),))


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Into WAL mode, if somebody has switched the file to another: there readers and writers wait for each other."""
    patience = time.monotonic() + BUSY_MS / 1000  # SQLite does not wait for somebody who is about to write
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        if time.monotonic() >= patience:
            return  # as it is, then: somebody is reading it
        time.sleep(0.01)


def _migrate(connection: sqlite3.Connection) -> None:
    from ledger.migrations import migrate  # few need it, and it needs this module

    migrate(connection)


def _look(connection: sqlite3.Connection, tables: Sequence[str]) -> None:
    """Fails on damage that is seen in microseconds: a table that is gone, or does not begin where the schema says."""
    looks = ", ".join(f"(SELECT 1 FROM {table} NOT INDEXED LIMIT 1)" for table in tables)
    connection.execute(f"SELECT {looks}").fetchone()


def schema() -> Iterator[str]:
    """The statements of schema.sql."""
    from importlib.resources import files

    return statements(files("ledger").joinpath("schema.sql").read_text(encoding="utf-8"))


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
