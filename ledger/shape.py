"""Whether a file's schema is the program's: tables, triggers, views and indexes, and the law that it carries."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

from ledger.sqlite import schema, sqlite3

_LAW = ("state", "kind", "rule", "metric")
_OBJECTS = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid"
)


class Definition(NamedTuple):
    """What an object of the schema is: the table that it belongs to, and the statement that makes it."""

    table: str
    sql: str


Objects = dict[tuple[str, str], Definition]
"""(type, name) -> definition, in the order in which they were made."""


def misshapen(connection: sqlite3.Connection) -> Iterator[str]:
    """What is not as in schema.sql, a line each. Tables, views and indexes that somebody added are his business."""
    found = objects(connection)
    for kind, name in wanted():
        if (kind, name) not in found:
            yield f"the {kind} {name} is missing"
        elif _plain(found[kind, name]) != _plain(wanted()[kind, name]):
            yield f"the {kind} {name} is not that of the schema"
    for kind, name in found:
        if kind == "trigger" and (kind, name) not in wanted():
            yield f"the trigger {name} is not of the schema"
    for table in _LAW:
        if ("table", table) in found and _rows(connection, table) != _fresh()[1][table]:
            yield f"the table {table} is not that of the program"


def objects(connection: sqlite3.Connection) -> Objects:
    """What a file's schema is made of."""
    rows = connection.execute(_OBJECTS)
    return {(kind, name): Definition(table, str(sql)) for kind, name, table, sql in rows}


def wanted() -> Objects:
    """What schema.sql makes."""
    return _fresh()[0]


@functools.cache
def _fresh() -> tuple[Objects, dict[str, list[Any]]]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in schema():
            fresh.execute(statement)
        return objects(fresh), {table: _rows(fresh, table) for table in _LAW}


def _rows(connection: sqlite3.Connection, table: str) -> list[Any]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def _plain(definition: Definition) -> str:
    return " ".join(definition.sql.split())
