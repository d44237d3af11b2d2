"""Reading a ledger: its calls, their events, samples and output, and queries of one's own. Never writes.

Rows are dicts with the columns of the views in schema.sql; a call is one nested dict, the same everywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ledger.account import CALLS, Row, account, conditions
from ledger.images import Use, uses
from ledger.lease import Lease, Unsettled, unsettled
from ledger.opened import Opened
from ledger.query import query
from ledger.sqlite import explain, has_reset_bug, scalar, sound, sqlite3
from machine.errors import AmbiguousCallError, UnknownCallError, UsageError
from machine.history import Past
from machine.samples import METRICS
from machine.states import Kind, State

SHORTEST = 4
"""Characters of an id that are needed: fewer would soon mean another call."""
NAMED = 3
"""How many of the calls that a CALL could mean are named."""
PAGE = 16
"""Pieces of output read at once: a slow reader must not hold the file's past in place for the writers."""
SETTLE_NS = 15 * 10**9
"""How long after its end a call's last notes are waited for; a runner that dies just then writes none."""

_NEWEST = "ORDER BY created_at DESC, id DESC"
_LAST = {
    "@last": f"SELECT id FROM call {_NEWEST} LIMIT 1",
    "@last-failed": f"SELECT id FROM call WHERE ended_at > 0 AND state <> 'success' {_NEWEST} LIMIT 1",
}


class Chunk(NamedTuple):
    """A piece of recorded output. `stream`: 1 stdout, 2 stderr; `offset`: where it begins in its stream."""

    seq: int
    at: int
    stream: int
    offset: int
    data: bytes


class Fate(NamedTuple):
    """What became of a call, and of its container: `kept` on purpose."""

    call_id: int
    state: str
    cleaned: bool
    kept: bool


_KINDS, _STATES = tuple(Kind), tuple(State)


def _past(row: Sequence[Any]) -> Past:
    _, seq, at, kind, state, text = row
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError(f"event {seq} says {text}, which is no object")
    return Past(seq, at, _KINDS[kind], _STATES[state], data)


class Reader(Opened):
    """What a ledger says of its calls. A context manager; for one thread."""

    def __init__(self, path: Path, now: Callable[[], int] = time.time_ns) -> None:
        """LedgerError when there is no ledger at `path`. `now`: what the times of live calls count up to."""
        super().__init__(path)
        self._now = now

    def resolve(self, text: str) -> int:
        """The call that a CALL means: an id, the newest of a name, part of an id, @last or @last-failed.

        An exact name goes before a part of an id; the part is a prefix or a suffix. UnknownCallError when
        nothing matches, AmbiguousCallError when several do.
        """
        if text.startswith("@"):
            return self._last(text)
        whole = (
            "SELECT id FROM call WHERE uid = lower(?)",
            f"SELECT id FROM call WHERE name = ? {_NEWEST} LIMIT 1",
        )
        for statement in whole:
            if (found := self._one(statement, text)) is not None:
                return int(found)
        return self._part(text)

    def _last(self, text: str) -> int:
        if text not in _LAST:
            raise UsageError(f"{text}: write @last or @last-failed")
        found = self._one(_LAST[text])
        if found is None:
            raise UnknownCallError(f"{text}: no call {'has failed' if text == '@last-failed' else 'is recorded'} yet")
        return int(found)

    def _part(self, text: str) -> int:
        if len(text) < SHORTEST:
            raise UnknownCallError(f"no call is named {text!r} (of an id, give {SHORTEST} characters or more)")
        part = text.lower()
        where = "WHERE substr(uid, 1, length(:part)) = :part OR substr(uid, -length(:part)) = :part"
        found = self._rows(f"SELECT id, uid, name FROM call {where} {_NEWEST}", {"part": part})
        if not found:
            raise UnknownCallError(f"no call matches {text!r} in {self.path} (calls ps -a lists them)")
        if len(found) > 1:
            named = ", ".join(row["uid"][-12:] + f" ({row['name']})" * bool(row["name"]) for row in found[:NAMED])
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            raise AmbiguousCallError(f"{text!r} matches {len(found)} calls: {named}{more}")
        return int(found[0]["id"])

    def show(self, call: str | int) -> Row:
        """Everything about one call, as JSON has it. `call`: what `resolve` takes, or what it gave.

        For a live call the times count up to now, and CPU and memory are those of the latest samples.
        """
        call_id = self.resolve(call) if isinstance(call, str) else call
        return self._account(self._rows(f"{CALLS} WHERE id = ?", (call_id,))[0], self._now())

    def images(self) -> list[Use]:
        """Which images calls have used."""
        with explain(self.path):
            return uses(self._connection)

    def calls(
        self, last: int | None = None, *, live: bool = False, only: Sequence[tuple[str, str]] = ()
    ) -> Iterator[Row]:
        """The `last` calls (None: all), newest first; with `live` also every call that has not ended.

        `only`: pairs of a key of FILTERS and a value. Values of one key are alternatives; labels must all
        be there.
        """
        where, values = conditions(only)
        newest = f"SELECT id FROM call WHERE {where} {_NEWEST} LIMIT :last"
        alive = f"SELECT id FROM call WHERE {where} AND ended_at IS NULL AND :live"
        values |= {"last": -1 if last is None else last, "live": live}
        rows = self._rows(f"{CALLS} WHERE id IN (SELECT * FROM ({newest}) UNION {alive}) {_NEWEST}", values)
        now = self._now()
        return (self._account(row, now) for row in rows)

    def events(self, call_id: int, after_seq: int = 0) -> list[Row]:
        """The events of a call after number `after_seq`: the view `events`, with `data` as an object."""
        rows = self._rows("SELECT * FROM events WHERE call_id = ? AND seq > ? ORDER BY seq", (call_id, after_seq))
        with sound(self.path):
            return [{**row, "data": json.loads(row["data"])} for row in rows]

    def unsettled(self) -> list[Unsettled]:
        """Every call about which there is more to write, with the lease of its runner."""
        with explain(self.path):
            return unsettled(self._connection)

    def unsettled_logs(self) -> Iterator[tuple[int, Iterator[Past]]]:
        """The log of each of them: (call, its events, made as they are asked for: one may be damaged)."""
        statement = (  # as bytes: not even that it is text is sure
            "SELECT call_id, seq, at, kind, state, CAST(data AS BLOB) FROM event "
            "WHERE call_id IN (SELECT id FROM call WHERE cleaned = 0) ORDER BY call_id, seq"
        )
        with explain(self.path):
            for call_id, rows in groupby(self._connection.execute(statement), key=lambda row: row[0]):
                yield int(call_id), map(_past, list(rows))

    def log(self, call_id: int) -> list[Past]:
        """The events of a call as they were recorded."""
        statement = "SELECT call_id, seq, at, kind, state, data FROM event WHERE call_id = ? ORDER BY seq"
        with explain(self.path), sound(self.path):
            return [_past(row) for row in self._connection.execute(statement, (call_id,))]

    def samples(self, call_id: int, last: int | None = None) -> list[Row]:
        """The samples of a call, or the `last` of them: the view `samples`."""
        first = "coalesce((SELECT max(seq) FROM sample WHERE call_id = :call) - :last, 0)"
        where = f"WHERE call_id = :call AND seq > {0 if last is None else first}"
        return self._rows(f"SELECT * FROM samples {where} ORDER BY seq", {"call": call_id, "last": last})

    def points(self, call_id: int) -> list[Row]:
        """The history of an ended call, at most 240 points a metric: the view `histogram_point`, and uid."""
        columns = "point.*, call.uid, (point.t_first - call.created_at) / 1e9 AS t_seconds"
        source = "histogram_point AS point JOIN call ON call.id = point.call_id"
        return self._rows(f"SELECT {columns} FROM {source} WHERE point.call_id = ? ORDER BY bucket, metric", (call_id,))

    def highest(self, call_id: int) -> dict[str, float | None]:
        """The highest value of every metric: for a counter, where it ended. None where never measured."""
        maxima = ", ".join(f"max({name}) AS {name}" for name in METRICS)
        return self._rows(f"SELECT {maxima} FROM sample WHERE call_id = ?", (call_id,))[0]

    def last_sampled(self, call_id: int) -> int | None:
        """When the last sample of a call was taken, ns."""
        found: int | None = self._one("SELECT at FROM sample WHERE call_id = ? ORDER BY seq DESC LIMIT 1", call_id)
        return found

    def output(self, call_id: int, after_seq: int = 0) -> Iterator[Chunk]:
        """The recorded output after piece number `after_seq`, in the order in which it was written down."""
        statement = (
            "SELECT seq, at, stream, offset_bytes, data FROM log "
            f"WHERE call_id = ? AND seq > ? ORDER BY seq LIMIT {PAGE}"
        )
        while True:
            with explain(self.path):
                page = [Chunk(*row) for row in self._connection.execute(statement, (call_id, after_seq))]
            yield from page
            if len(page) < PAGE:
                return
            after_seq = page[-1].seq

    def query(self, sql: str, values: Mapping[str, object] | None = None) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """Carry out one query of one's own; -> the names of its columns and its rows. See `ledger.query`."""
        return query(self._connection, self.path, sql, values or {})

    def version(self) -> int:
        """Another number whenever another connection has written. Costs microseconds."""
        return int(self._one("PRAGMA data_version"))

    def ended(self, call_id: int) -> bool:
        """Whether the call is over: its verdict is written."""
        return bool(self._one("SELECT ended_at IS NOT NULL FROM call WHERE id = ?", call_id))

    def settled(self, call_id: int) -> bool:
        """Whether nothing more will be written about a call: it is over and cleaned up, or long over."""
        statement = "SELECT ended_at IS NOT NULL AND (cleaned OR ended_at < ?) FROM call WHERE id = ?"
        return bool(self._one(statement, self._now() - SETTLE_NS, call_id))

    def lease(self, runner: str) -> Lease | None:
        """The lease of a runner; None when it has none (any more)."""
        found = self._rows("SELECT * FROM lease WHERE runner = ?", (runner,))
        return Lease(*found[0].values()) if found else None

    def fate(self, uid: str) -> Fate | None:
        """What became of a call; None when the ledger does not know it."""
        statement = "SELECT id, state, cleaned, spec ->> '$.keep' IS 1 AS kept FROM call WHERE uid = ?"
        found = self._rows(statement, (uid,))
        return Fate(*found[0].values()) if found else None

    def about(self) -> Row:
        """The file itself: schema version, journal mode, number of calls, and the SQLite that reads it."""
        return {
            "schema": self._one("PRAGMA user_version"),
            "journal": self._journal(),
            "calls": self._one("SELECT count(*) FROM call"),
            "sqlite": sqlite3.sqlite_version,
            "reset_bug": has_reset_bug(),
        }

    def _journal(self) -> str:
        with explain(self.path), self.path.open("rb") as file:
            if file.read(20)[18:] == b"\2\2":  # on read-only ground the connection's own mode is another
                return "wal"
        return str(self._one("PRAGMA journal_mode"))

    def _account(self, row: Row, now: int) -> Row:
        with sound(self.path):
            return account(row, now)

    def _one(self, statement: str, *values: Any) -> Any:
        with explain(self.path):
            return scalar(self._connection, statement, *values)

    def _rows(self, statement: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Row]:
        with explain(self.path):
            cursor = self._connection.execute(statement, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
