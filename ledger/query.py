"""Queries of one's own: plain SQL, and nothing but reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.sqlite import damaged, sqlite3
from machine.errors import UsageError

_ALLOWED = frozenset((
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
))  # fmt: skip
_ASK = ("_info", "_xinfo", "_list", "_check")
"""How the names of pragmas end whose value only says what is asked about; any other value is a setting."""
_ACT = ("wal_checkpoint", "incremental_vacuum", "optimize")


def query(
    connection: sqlite3.Connection, path: Path, sql: str, values: Mapping[str, object]
) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Carry out one query; -> the names of its columns, made unique, and its rows, as they are found.

    UsageError when it is no SQL, is more than one statement, lacks a value, or would do anything but read; LedgerError
    when the ledger at `path` cannot be read.
    """
    # The mode of the connection alone is not enough: ATTACH and VACUUM INTO make files elsewhere.
    connection.set_authorizer(_reading_only)
    connection.text_factory = _lenient
    with _explained(path):
        cursor = connection.execute(sql, dict(values))
    if cursor.description is None:
        raise UsageError("sql: this is no query: it has no rows to show")
    names = [column[0] for column in cursor.description]
    if len(set(names)) < len(names):
        from sqlite_utils.utils import dedupe_keys

        names = dedupe_keys(names)
    return names, _fetched(cursor, path)


def _fetched(cursor: sqlite3.Cursor, path: Path) -> Iterator[Sequence[Any]]:
    with _explained(path):
        # Not from the cursor itself: an abandoned generator would close it, after the connection is gone.
        yield from iter(cursor.fetchone, None)


def _reading_only(action: int, name: str | None, value: str | None, *_: object) -> int:
    word = (name or "").lower()
    tells = action == sqlite3.SQLITE_PRAGMA and word not in _ACT and (value is None or word.endswith(_ASK))
    return sqlite3.SQLITE_OK if tells or action in _ALLOWED else sqlite3.SQLITE_DENY


def _lenient(text: bytes) -> str:
    # Output cast to text may be any bytes: better to show it with a mark than to refuse the whole query.
    return text.decode(errors="replace")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning) as error:  # two statements are a Warning in some versions
        refused = "authoriz" in str(error)  # "not authorized", or "authorization denied"
        if type(error) is sqlite3.DatabaseError and not refused:
            raise damaged(path, error) from error
        raise UsageError(f"sql: {'a ledger is only read here' if refused else error}") from error
