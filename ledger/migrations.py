"""From the schema of an earlier version to this one's: all of it or nothing, in one transaction.

schema.sql is the only definition. What is defined otherwise in the file is made anew from it, and a table's rows are
carried over, the projection's too: to fold it anew would mend what `calls verify` is there to find. A step fills what
cannot be had in this way.

Not by sqlite_utils.Migrations: it costs 166 ms to import, and keeps account in a table of its own, beside
`user_version`, by which an earlier version of this program knows a ledger that is too new for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ledger.failpoint import reach
from ledger.sqlite import SCHEMA_VERSION, scalar, schema, sqlite3, transaction

_OBJECT = re.compile(r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+).*(?=;)", re.MULTILINE | re.DOTALL)
_LAW = re.compile(r"^INSERT INTO (\w+)", re.MULTILINE)

# Who conducts the calls that are not settled stands in `submitted`; their latest event is his last sign of life. Of a
# damaged ledger only what can be read is taken: it must open, or nobody could say what is damaged.
_LEASES = """
INSERT OR IGNORE INTO lease (runner, host, boot, pid, pid_started, pid_namespace, beat_at)
SELECT call.runner, owner ->> 'host', owner ->> 'boot', CAST(owner ->> 'pid' AS INTEGER),
  CAST(owner ->> 'pid_started' AS INTEGER), 0, (SELECT max(at) FROM event WHERE event.call_id = call.id)
FROM call JOIN (
  SELECT call_id, CASE WHEN json_valid(data) THEN data -> 'owner' END AS owner FROM event WHERE seq = 1
) ON call_id = call.id
WHERE cleaned = 0 ORDER BY call.id DESC
"""
_STEPS = {1: (_LEASES,)}
"""By version: what has to be filled in on the way from it to the next."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a ledger of an earlier version up to SCHEMA_VERSION. Failpoints: `migrate.N` before statement N."""
    with transaction(connection, "migrate"):
        version = int(scalar(connection, "PRAGMA user_version"))
        if version < SCHEMA_VERSION:  # else another process was first
            for number, statement in enumerate(_statements(connection, version)):
                reach(f"migrate.{number}")
                connection.execute(statement)


def _statements(connection: sqlite3.Connection, version: int) -> Iterator[str]:
    """What there is to do, found while it is done: each statement sees what those before it have left."""
    for statement in schema():  # the new user_version is among them
        if made := _OBJECT.search(statement):
            yield from _object(connection, made[1], made[2], made[0])
        else:
            if law := _LAW.search(statement):
                yield f"DELETE FROM {law[1]}"
            yield statement
    for step in range(version, SCHEMA_VERSION):
        yield from _STEPS[step]


def _object(connection: sqlite3.Connection, kind: str, name: str, definition: str) -> Iterator[str]:
    wanted = "SELECT sql FROM sqlite_master WHERE type = ? AND name = ?"
    found = scalar(connection, wanted, kind.lower(), name)
    if found == definition:
        return
    if found is None:
        yield definition
    elif kind != "TABLE":
        yield f"DROP {kind} {name}"
        yield definition
    else:  # not renamed: that would change, or stumble over, the views that people have added
        yield f"CREATE TEMP TABLE carried AS SELECT * FROM {name}"
        yield f"DROP TABLE {name}"
        yield definition
        both = ", ".join(sorted(_columns(connection, name) & _columns(connection, "carried")))
        yield f"INSERT INTO {name} ({both}) SELECT {both} FROM carried ORDER BY rowid"
        yield "DROP TABLE carried"


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
