"""The rows of a damaged ledger in order: told apart by what they look like, each with its call.

They lie in a file of their own meanwhile, which has no name any more: whatever happens, nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from ledger.pages import Found, Pages
from ledger.projection import COLUMNS
from ledger.sqlite import scalar, sqlite3
from machine.samples import METRICS

Row = Sequence[Any]

_TABLES = {"samples": "sample", "output": "log"}
_WIDTHS = {"event": 13, "sample": 3 + len(METRICS), "log": 6, "histogram": 10, "call": 3}
_REALS = sum(name.endswith("_pct") for name in METRICS)  # they come first
_CALL_EVENTS = 1 + COLUMNS.index("events")
_STREAMS = (1, 2)


class Collection:
    """Everything that was found. `identity`: the id of the ledger, if that was."""

    def __init__(self, connection: sqlite3.Connection, identity: str | None) -> None:
        self.identity = identity
        self._connection = connection
        contested = "SELECT c0 FROM event GROUP BY c0 HAVING min(c1) < max(c1) OR min(c2) < max(c2)"
        self._contested = {number for (number,) in connection.execute(contested)}

    def calls(self) -> list[int]:
        """The calls of which there is anything."""
        tables = " UNION ".join(f"SELECT c0 FROM {table}" for table in ("call", "sample", "log"))
        return [row[0] for row in self._connection.execute(f"SELECT c1 FROM event UNION {tables} ORDER BY 1")]

    def call(self, call_id: int) -> Pieces:
        """What there is of one."""
        return Pieces(self._connection, call_id, self._contested)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


class Pieces:
    """What was found of one call. See `ledger.prefix.Pieces`."""

    def __init__(self, connection: sqlite3.Connection, call_id: int, contested: set[int]) -> None:
        self.call_id = call_id
        self._connection = connection
        self._contested = contested

    def events(self) -> dict[int, list[Row]]:
        """By seq, the likeliest first. Where the id of one may be the damage, it is there with the likely one, too."""
        rows = self._select("event", "c0, " + ", ".join(f"c{n}" for n in range(2, 13)), "ORDER BY c2")
        found = {seq: list(dict.fromkeys(same)) for seq, same in groupby(rows, itemgetter(1))}
        lowest = {seq: min(row[0] for row in same) for seq, same in found.items()}
        return {
            seq: [each for row in same for each in self._numbered(row, lowest.get(seq + 1))]
            for seq, same in found.items()
        }

    def _numbered(self, row: Row, following: int | None) -> list[Row]:
        number, *rest, likely, misplaced = row
        if likely is None:
            return [(number, *rest)]
        doubted = misplaced or number in self._contested or (following is not None and following <= number)
        return [(one, *rest) for one in ((likely, number) if doubted else (number, likely))]

    def rows(self, part: str, after: int, upto: int) -> Iterator[list[Row]]:
        """Samples or output, in the order of their seq: all that claim one."""
        table = _TABLES[part]
        columns = ", ".join(f"c{n}" for n in range(1, _WIDTHS[table]))
        rows = self._select(table, columns, "AND c1 > ? AND c1 <= ? ORDER BY c1", after, upto)
        for _, same in groupby(rows, itemgetter(0)):
            yield list(dict.fromkeys(same))

    def histogram(self) -> list[Row]:
        """The rows of its histogram, in order."""
        columns = ", ".join(f"c{n}" for n in range(1, _WIDTHS["histogram"]))
        return list(dict.fromkeys(self._select("histogram", columns, "ORDER BY c1, c2")))

    def expected(self, uid: str) -> tuple[str | None, int, bool]:
        """The call's uid, if `uid` is empty; how many events there ought to be; and whether that is certain."""
        known = self._connection.execute(
            "SELECT c1, max(c2) FROM call WHERE c0 = ? AND ? IN ('', c1) GROUP BY c1 ORDER BY 2 DESC",
            (self.call_id, uid),
        ).fetchone()
        if known is not None:
            return str(known[0]), int(known[1]), True
        last = scalar(self._connection, "SELECT coalesce(max(c2), 0) FROM event WHERE c1 = ?", self.call_id)
        return uid or None, int(last), False

    def _select(self, table: str, columns: str, rest: str, *values: int) -> Iterator[Any]:
        key = "c1" if table == "event" else "c0"
        return self._connection.execute(
            f"SELECT {columns} FROM {table} WHERE {key} = ? {rest}", (self.call_id, *values)
        )


def collect(pages: Pages, at: Path, progress: Callable[[int, int], None]) -> Collection:
    """Put the rows of all pages in order, in a file at `at` that loses its name at once."""
    connection = sqlite3.connect(at.absolute(), isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        for table, width in _WIDTHS.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(f'c{n}' for n in range(width))})")
        at.unlink()
        identity = None
        for done, rows in enumerate(pages.rows(), 1):
            identity = _sort(connection, rows) or identity
            progress(done, len(pages))
        for table, key in (
            ("event", "c1, c2"),
            ("sample", "c0, c1"),
            ("log", "c0, c1"),
            ("histogram", "c0"),
            ("call", "c0"),
        ):
            connection.execute(f"CREATE INDEX {table}_order ON {table} ({key})")
        connection.execute("CREATE INDEX event_ids ON event (c0, c1, c2)")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return Collection(connection, identity)


def _sort(connection: sqlite3.Connection, page: Iterable[Found]) -> str | None:
    """Note the rows of a page; -> the ledger's id, if it is there."""
    identity = None
    rows: dict[str, list[Row]] = {}
    for found in page:
        values = found.values
        if len(values) == 2 and values[0] == "ledger" and _is_uuid(values[1]):
            identity = values[1]
        elif (shape := _SHAPES.get(len(values))) and (row := shape[1](found)):
            rows.setdefault(shape[0], []).append(row)
        elif len(values) > _CALL_EVENTS and (row := _call(found)):
            rows.setdefault("call", []).append(row)
    if "event" in rows:
        rows["event"] = list(_placed(rows["event"]))
    for table, those in rows.items():
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * _WIDTHS[table])})", those)
    return identity


def _placed(rows: Sequence[Row]) -> Iterator[Row]:
    """Events of a page, with the id that each has by its neighbours, unless they confirm its own; and if it misfits."""
    for place, row in enumerate(rows):
        before = rows[place - 1][0] if place else None
        after = rows[place + 1][0] if place + 1 < len(rows) else None
        number = row[0]
        likely = before + 1 if before is not None else after - 1 if after is not None else None
        if number - 1 == before or number + 1 == after:
            likely = None
        misplaced = (before is not None and before >= number) or (after is not None and number >= after)
        yield *row, likely, misplaced


def _is_uuid(value: Any) -> bool:
    try:
        return bool(value == str(UUID(value)))
    except (AttributeError, TypeError, ValueError):
        return False


def _integers(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)


def _event(found: Found) -> Row | None:
    alias, call_id, seq, at, kind, state, elapsed, data, samples, chunks, digest = found.values
    if alias is not None or not _integers((found.rowid, call_id, seq, at, kind, state, samples, chunks)):
        return None
    if type(data) is not str or type(digest) is not bytes or len(digest) != 32 or min(samples, chunks, seq - 1) < 0:
        return None
    if elapsed is not None and not (type(elapsed) is int and elapsed >= 0):
        return None
    return (found.rowid, *found.values[1:])


def _sample(found: Found) -> Row | None:
    key, reals, integers = found.values[:3], found.values[3 : 3 + _REALS], found.values[3 + _REALS :]
    if found.rowid is not None or not _integers(key) or key[1] < 1:
        return None
    if not _integers(value for value in integers if value is not None):
        return None
    if not all(type(value) in (int, float, type(None)) for value in reals):
        return None
    return (*key, *(_real(value) for value in reals), *integers)


def _log(found: Found) -> Row | None:
    *numbers, data = found.values
    if not _integers(numbers) or type(data) is not bytes:
        return None
    _, seq, _, stream, offset = numbers
    return found.values if seq >= 1 and stream in _STREAMS and offset >= 0 else None


def _histogram(found: Found) -> Row | None:
    key, reals = found.values[:6], found.values[6:]
    if found.rowid is not None or not _integers(key) or not all(type(value) in (int, float) for value in reals):
        return None
    return (*key, *map(_real, reals))


def _call(found: Found) -> Row | None:
    uid, events = found.values[1], found.values[_CALL_EVENTS]
    return (found.rowid, uid, events) if type(uid) is str and _integers((found.rowid, events)) else None


def _real(value: Any) -> Any:
    return value if value is None else float(value)  # SQLite keeps whole ones as integers


_SHAPES: dict[int, tuple[str, Callable[[Found], Row | None]]] = {
    11: ("event", _event),
    3 + len(METRICS): ("sample", _sample),
    6: ("log", _log),
    10: ("histogram", _histogram),
}
"""By the number of their columns: the table, and what makes a row of it; None for what is none."""
