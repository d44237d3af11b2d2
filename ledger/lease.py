"""Who is at work: a row for each runner that has begun or adopted a call, renewed while it lives.

The row alone settles nothing: whether its process still is there is for whoever can look at processes
(`calls.identity`). The heartbeat decides only where they cannot: on another host, in another pid namespace.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.sqlite import scalar, sqlite3, transaction
from machine.facts import Owner

BEAT = 10.0
"""Seconds between two heartbeats."""
OLD = 24 * 3600 * 10**9
"""How long the row of a runner that died with nothing left to do stays, ns."""


class Lease(NamedTuple):
    """See the table `lease`. `beat_at` in ns, UTC."""

    runner: str
    host: str
    boot: str
    pid: int
    pid_started: int
    pid_namespace: int
    beat_at: int


class Unsettled(NamedTuple):
    """A call about which there is more to write, and who ought to. `lease` None: its runner is known to be gone."""

    call_id: int
    uid: str
    driver: str
    state: str
    runner: str
    lease: Lease | None


def take(connection: sqlite3.Connection, owner: Owner, now: int) -> None:
    """Write the owner's row, inside a transaction of the caller's; old ones that nobody needs go."""
    unneeded = "beat_at < ? AND NOT EXISTS (SELECT 1 FROM call WHERE call.runner = lease.runner AND cleaned = 0)"
    connection.execute(f"DELETE FROM lease WHERE {unneeded}", (now - OLD,))
    row = (owner.runner, owner.host, owner.boot, owner.pid, owner.pid_started, owner.pid_namespace, now)
    connection.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def beat(connection: sqlite3.Connection, runner: str, now: int) -> None:
    """Say that the runner lives."""
    with transaction(connection, "beat"):
        connection.execute("UPDATE lease SET beat_at = ? WHERE runner = ?", (now, runner))


def end(connection: sqlite3.Connection, runner: str) -> None:
    """The runner is at its end: what it has left open is anybody's."""
    connection.execute("PRAGMA synchronous = NORMAL")  # if this is lost, its process is gone all the same
    with transaction(connection, "lease-end"):
        connection.execute("DELETE FROM lease WHERE runner = ?", (runner,))


def owner_of(connection: sqlite3.Connection, call_id: int) -> str | None:
    """The runner that conducts a call."""
    found = scalar(connection, "SELECT runner FROM call WHERE id = ?", call_id)
    return None if found is None else str(found)


def unsettled(connection: sqlite3.Connection) -> list[Unsettled]:
    """Every call whose last word, `cleaned`, is not written, oldest first."""
    rows = connection.execute(
        "SELECT call.id, call.uid, call.driver, call.state, call.runner, lease.* FROM call "
        "LEFT JOIN lease ON lease.runner = call.runner WHERE call.cleaned = 0 ORDER BY call.id"
    )
    return [Unsettled._make([*row[:5], None if row[5] is None else Lease(*row[5:])]) for row in rows]
