"""Save what is good in a damaged ledger: a new ledger with, of each call, as much of its log as proves itself.

The damaged file is only read, as bytes, page by page (`ledger.pages`). What is found is put in order
(`ledger.pieces`) and goes into the new ledger, call by call, as far as the chain confirms it (`ledger.prefix`). What is
derived is made anew. Ids, times and digests stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ledger import digest
from ledger.backup import whole
from ledger.pages import Pages
from ledger.pieces import Collection, Pieces, collect
from ledger.prefix import PARTS, Prefix, longest
from ledger.rebuild import rebuild
from ledger.sqlite import APPLICATION_ID, SCHEMA_VERSION, connect_writer, explain, sqlite3, transaction
from ledger.tombstone import Tombstones
from machine.errors import LedgerError, NothingSavedError
from machine.samples import METRICS
from machine.states import Kind

CALLS = 1000
"""How many calls go in one transaction."""
_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT = {
    "samples": f"INSERT INTO sample VALUES ({', '.join('?' * (3 + len(METRICS)))})",
    "output": "INSERT INTO log (call_id, seq, at, stream, offset_bytes, data) VALUES (?, ?, ?, ?, ?, ?)",
}
_HISTOGRAM = "INSERT INTO histogram VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

Progress = Callable[[int, int], None]
"""Is told how much is done, of how much."""


class Lost(NamedTuple):
    """A call that could not be saved whole: `kept` events of `of` (0: nobody knows), what is wrong with event `seq`.

    `call` is None where its uid is lost, too; `seq` None where all events are kept and something else is lost.
    """

    call: str | None
    number: int
    kept: int
    of: int
    seq: int | None
    why: str


class Salvaged(NamedTuple):
    """What is in the new ledger. `uncovered`: rows of samples and output that no event covers yet.

    `identity`: whether it could keep the id of the damaged one. `missing_pages`: by how much that is too short.
    """

    calls: int
    events: int
    samples: int
    output_bytes: int
    uncovered: int
    identity: bool
    missing_pages: int
    lost: list[Lost]


def salvage(path: Path, to: Path, progress: Progress = lambda *_: None) -> Salvaged:
    """Save what is good in `path` (and its -wal) into the new ledger `to`, which appears whole or not at all.

    NothingSavedError when nothing is; LedgerError when it is no ledger, or of a newer version; UsageError when `to`
    is there already.
    """
    with explain(path), Pages(path) as pages, whole(to) as part:
        header = pages.header()
        ours = header.valid and header.application == APPLICATION_ID
        if ours and header.version > SCHEMA_VERSION:
            raise LedgerError(
                f"{path} has schema version {header.version}, this program knows {SCHEMA_VERSION}: "
                "use a newer call-ledger"
            )
        with closing(collect(pages, Path(f"{part}-pieces"), progress)) as found:
            with closing(connect_writer(part)) as connection:
                connection.execute("PRAGMA synchronous = OFF")  # half a ledger is thrown away
                writer = _Writer(connection, found)
                writer.write(progress)
            if not writer.events and (writer.lost or pages.missing() or found.identity is None):
                if header.valid and not ours and header.pages > 1:
                    raise LedgerError(f"{path} is a SQLite file but not a ledger")
                raise NothingSavedError(
                    f"nothing can be saved from {path}: there is no event of a call in it that holds"
                )
        rebuild(part, progress)
        return Salvaged(
            writer.calls,
            writer.events,
            writer.samples,
            writer.output_bytes,
            writer.uncovered,
            found.identity is not None,
            pages.missing(),
            writer.lost,
        )


class _Writer:
    """Writes the log of the new ledger, call by call, and keeps account."""

    def __init__(self, connection: sqlite3.Connection, found: Collection) -> None:
        self._connection = connection
        self._found = found
        self._ids: set[int] = set()
        self._uids: set[str] = set()
        self.calls = self.events = self.samples = self.output_bytes = self.uncovered = 0
        self.lost: list[Lost] = []

    def write(self, progress: Progress) -> None:
        calls = self._found.calls()
        for begin in range(0, len(calls), CALLS):
            with transaction(self._connection, "salvage"):
                if begin == 0 and self._found.identity is not None:
                    self._connection.execute("UPDATE meta SET value = ? WHERE key = 'ledger'", (self._found.identity,))
                for call_id in calls[begin : begin + CALLS]:
                    self._call(self._found.call(call_id))
            progress(min(begin + CALLS, len(calls)), len(calls))

    def _call(self, pieces: Pieces) -> None:
        prefix = longest(pieces, self._ids)
        kept = len(prefix.events)
        if prefix.uid in self._uids:
            kept, prefix = 0, prefix._replace(events=[], why="another call has its uid")
        uid, of, certain = pieces.expected(prefix.uid)
        if kept:
            self._log(pieces, prefix)
            self._uids.add(prefix.uid)
            self.calls += 1
        if kept < max(of, 1):
            self.lost.append(Lost(uid, pieces.call_id, kept, of, kept + 1, prefix.why or "it is missing"))
            return
        cleaned = any(event[3] == Kind.CLEANED.code for event in prefix.events)
        if not (certain or cleaned):
            self.lost.append(Lost(uid, pieces.call_id, kept, 0, kept + 1, "nothing says whether there was one"))
        self._rest(pieces, prefix, cleaned=cleaned)

    def _log(self, pieces: Pieces, prefix: Prefix) -> None:
        execute, call_id = self._connection.execute, pieces.call_id
        for event, spans in zip(prefix.events, prefix.spans, strict=True):
            for part, span in spans.items():
                chosen = prefix.chosen[part]
                self._rows(pieces.call_id, part, (chosen.get(s[0][0], s[0]) for s in pieces.rows(part, *span)))
            execute(_EVENT, (event[0], call_id, *event[1:]))
            self._ids.add(event[0])
        self.events += len(prefix.events)

    def _rows(self, call_id: int, part: str, rows: Iterable[Any]) -> int:
        count = size = 0

        def counted() -> Iterator[Any]:
            nonlocal count, size
            for row in rows:
                count += 1
                size += len(row[-1]) if part == "output" else 0
                yield call_id, *row

        self._connection.executemany(_INSERT[part], counted())
        self.samples += count if part == "samples" else 0
        self.output_bytes += size
        return count

    def _rest(self, pieces: Pieces, prefix: Prefix, *, cleaned: bool) -> None:
        """Of a call whose events are all there: rows that no event covers yet, and what outlives its samples."""
        wrong = []
        for part, upto in zip(PARTS, prefix.events[-1][7:9], strict=True):
            rows = _unbroken(pieces.rows(part, upto, 2**63 - 1), upto)
            if not cleaned:
                self.uncovered += self._rows(pieces.call_id, part, rows)
            elif next(rows, None) is not None:
                wrong.append(f"rows of {part} came after its last event")
        tombstones = Tombstones(prefix.events)
        if tombstones.histogram and not tombstones.emptied and not self._histogram(pieces, tombstones.histogram):
            wrong.append("its history cannot be had again: it outlived its samples, and is damaged")
        kept = len(prefix.events)
        self.lost += [Lost(prefix.uid, pieces.call_id, kept, kept, None, why) for why in wrong]

    def _histogram(self, pieces: Pieces, named: str) -> bool:
        rows = pieces.histogram()
        if digest.rows_digest(rows).hex() != named:
            return False
        self._connection.executemany(_HISTOGRAM, ((pieces.call_id, *row) for row in rows))
        return True


def _unbroken(rows: Iterator[list[Any]], after: int) -> Iterator[Any]:
    for number, same in enumerate(rows, after + 1):
        if same[0][0] != number:
            return
        yield same[0]
