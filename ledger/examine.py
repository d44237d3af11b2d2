"""One call's rows, held against each other: its log is whole, and what is derived follows from it.

The log goes first, event by event: numbers, order, the table of the machine, the rows of samples and output that
each event covers, the digest. What stands in `call` and `histogram` is looked at only when the log holds: it cannot
follow from a log that is not what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ledger import digest
from ledger.append import histogram_rows
from ledger.projection import CODED_STEPS, COLUMNS, UNBORN, UNREADABLE, advance, begin
from ledger.sqlite import sqlite3
from ledger.tombstone import Tombstones, decimated_samples
from machine.samples import METRICS
from machine.states import Kind, State

KINDS, STATES = tuple(Kind), tuple(State)
_PRUNED = Kind.PRUNED.code
_SHOWN = 60
"""Characters of a value that a finding shows."""

Row = Sequence[Any]


class Finding(NamedTuple):
    """What is wrong. `call`: a uid, None where it is unknown or no call's; `seq`: the first bad event, if it is one."""

    call: str | None
    seq: int | None
    what: str


class Tally:
    """What was looked at and, apart from the findings, is in order. `uncovered`: rows that no event covers yet."""

    def __init__(self) -> None:
        self.calls = self.events = self.samples = self.output_bytes = self.uncovered = 0


class Rows:
    """The rows of one table in the order of their calls, the next one known ahead. The first column is the call."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.next: Row | None = next(self._rows, None)

    def of(self, call_id: int) -> Iterator[Row]:
        """Those of a call that were not taken yet, without the first column."""
        while (row := self.next) is not None and row[0] == call_id:
            self.next = next(self._rows, None)
            yield row[1:]

    def upto(self, call_id: int, seq: int) -> Iterator[Row]:
        """Those of a call up to number `seq`."""
        while (row := self.next) is not None and row[0] == call_id and row[1] <= seq:
            self.next = next(self._rows, None)
            yield row[1:]

    def has(self, call_id: int, seq: int) -> bool:
        """Whether there are any up to number `seq`."""
        return self.next is not None and self.next[0] == call_id and self.next[1] <= seq


class _WrongError(Exception):
    """What is wrong with an event."""


class Examination:
    """The calls numbered `first` to `last`, each row of theirs read once, in the order of the calls.

    `late`: whether samples and output may have come after the last event of a call.
    """

    def __init__(
        self, connection: sqlite3.Connection, tally: Tally, first: int, last: int, *, late: bool = False
    ) -> None:
        def rows(columns: str, table: str, order: str) -> Rows:
            call_id = columns.partition(",")[0]
            statement = f"SELECT {columns} FROM {table} WHERE {call_id} BETWEEN ? AND ? ORDER BY {order}"
            return Rows(connection.execute(statement, (first, last)))

        self._connection = connection
        self._tally = tally
        self._late = late
        self._calls = rows(f"id, {', '.join(COLUMNS)}", "call", "id")
        event = "call_id, id, seq, at, kind, state, elapsed_ns, data, samples, chunks, digest"
        self._events = rows(event, "event", "call_id, seq")
        self._samples = rows(f"call_id, seq, at, {', '.join(METRICS)}", "sample", "call_id, seq")
        self._chunks = rows("call_id, seq, at, stream, offset_bytes, data", "log", "call_id, seq")
        summary = "call_id, metric, bucket, t_first, t_last, count, min, mean, max, last"
        self._histogram = rows(summary, "histogram", "call_id, metric, bucket")
        self.call_id = first
        """The call that is being looked at."""

    def findings(self) -> Iterator[list[Finding]]:
        """What is wrong with each of these calls."""
        tables = (self._calls, self._events, self._samples, self._chunks, self._histogram)
        while heads := [table.next[0] for table in tables if table.next is not None]:
            if not all(isinstance(head, int) for head in heads):  # whatever the schema and the query say
                raise sqlite3.DatabaseError("a row of a damaged page belongs to no call")
            self.call_id = call_id = min(heads)
            row = next(self._calls.of(call_id), None)
            events = list(self._events.of(call_id))
            yield list(self._call(call_id, row, events) if events else self._strangers(call_id, row))
            for table in tables:
                for _ in table.of(call_id):
                    pass  # what is left of a damaged call

    def _strangers(self, call_id: int, row: Row | None) -> Iterator[Finding]:
        uid = None if row is None else str(row[0])
        if row is not None:
            yield Finding(uid, None, f"call {call_id} has no events, and a row in call")
        for name, table in (("sample", self._samples), ("log", self._chunks), ("histogram", self._histogram)):
            if count := sum(1 for _ in table.of(call_id)):
                yield Finding(uid, None, f"call {call_id} has no events, and {_rows(count)} of {name}")

    def _call(self, call_id: int, row: Row | None, events: Sequence[Row]) -> Iterator[Finding]:
        folded = _folded(events)
        uid = folded.get("uid") or (row[0] if row else None)
        name = None if uid is None else str(uid)
        log = _Log(call_id, name or "", Tombstones(events), self._samples, self._chunks)
        seq = 0
        for seq, event in enumerate(events, 1):
            if wrong := log.take(event):
                yield Finding(name, seq, wrong)
                return
        self._count(log, seq)
        yield from (Finding(name, None, what) for what in self._derived(call_id, row, folded, log, events))

    def _count(self, log: _Log, events: int) -> None:
        self._tally.calls += 1
        self._tally.events += events
        self._tally.samples += log.read_samples
        self._tally.output_bytes += log.read_bytes

    def _derived(
        self, call_id: int, row: Row | None, folded: dict[str, Any], log: _Log, events: Sequence[Row]
    ) -> Iterator[str]:
        yield from _projected(row, folded)
        if not folded:
            return
        expected = self._expected(call_id, log.tombstones, events)
        found = [tuple(one) for one in self._histogram.of(call_id)]
        if expected is None:
            if digest.rows_digest(found).hex() != log.tombstones.histogram:
                yield "its histogram is not the one that its tombstone names"
        elif found != expected:
            yield f"its histogram is not that of its samples: {_difference(found, expected)}"
        for name, table, covered in (("sample", self._samples, log.samples), ("log", self._chunks, log.chunks)):
            yield from self._tail(name, [one[0] for one in table.of(call_id)], covered, folded)

    def _expected(self, call_id: int, tombstones: Tombstones, events: Sequence[Row]) -> Sequence[Row] | None:
        """The rows that `histogram` ought to have; None when only a tombstone's digest tells."""
        samples = decimated_samples(events, tombstones)
        if samples <= tombstones.upto["samples"]:
            return None if samples and tombstones.histogram else []
        rows = histogram_rows(self._connection, call_id, samples)
        return sorted((*row[1:6], *map(float, row[6:])) for row in rows)  # as the columns keep them

    def _tail(self, name: str, numbers: Sequence[int], covered: int, folded: dict[str, Any]) -> Iterator[str]:
        if not numbers:
            return
        if folded["cleaned"] and not self._late:
            yield f"{_rows(len(numbers))} of {name}, from number {numbers[0]} on, came after its last event"
        elif list(numbers) != list(range(covered + 1, covered + len(numbers) + 1)):
            yield f"rows of {name} are missing after number {covered}, and no event covers them yet"
        else:
            self._tally.uncovered += len(numbers)


class _Log:
    """The log of one call, taken event by event."""

    def __init__(self, call_id: int, uid: str, tombstones: Tombstones, samples: Rows, chunks: Rows) -> None:
        self.tombstones, self._emptied = tombstones, tombstones.emptied
        self.samples = self.chunks = self.read_samples = self.read_bytes = 0
        self._call_id, self._uid = call_id, uid
        self._samples, self._chunks = samples, chunks
        self._id, self._seq, self._state = -(2**63), 0, UNBORN
        self._digest = digest.GENESIS
        self._taken: list[Row] = []

    def take(self, event: Row) -> str:
        """The next event; -> what is wrong with it, or nothing."""
        try:
            self._order(event)
            samples = chunks = digest.EMPTY
            if event[7] != self.samples:
                samples = self._covered("samples", self._samples, self.samples, event[7], event[1])
            if event[8] != self.chunks:
                chunks = self._covered("output", self._chunks, self.chunks, event[8], event[1])
            self._content(event, samples, chunks)
        except _WrongError as wrong:
            return str(wrong)
        except UNREADABLE as error:
            return f"it cannot be read: {error}"
        self._id, self._seq, self._state = event[0], event[1], event[4]
        self.samples, self.chunks, self._digest = event[7], event[8], event[9]
        if self._emptied:
            self._taken.append((*event[:6], *event[7:]))
        return ""

    def _order(self, event: Row) -> None:
        number, seq, kind, state = event[0], event[1], event[3], event[4]
        if seq != self._seq + 1:
            raise _WrongError(f"it is missing: after event {self._seq} comes {seq}")
        if CODED_STEPS.get((self._state, kind)) != state:
            raise _WrongError(
                f"{_name(KINDS, kind)} cannot lead from {_name(STATES, self._state)} to {_name(STATES, state)}"
            )
        if number <= self._id:
            raise _WrongError(f"its id {number} is not after {self._id}, that of the event before it")

    def _covered(self, part: str, rows: Rows, before: int, upto: int, seq: int) -> bytes:
        """The digest of the rows that were logged since the event before."""
        if upto <= self.tombstones.upto[part]:
            return self._gone(part, rows, before, upto, seq)
        count = 0

        def counted() -> Iterator[Row]:
            nonlocal count
            for row in rows.upto(self._call_id, upto):
                count += 1
                if part == "output":
                    self.read_bytes += len(row[-1])
                yield row

        found = digest.rows_digest(counted())
        if count != upto - before:
            raise _WrongError(f"it covers {_rows(upto - before)} of {part}, of which {count} are there")
        if part == "samples":
            self.read_samples += count
        return found

    def _gone(self, part: str, rows: Rows, before: int, upto: int, seq: int) -> bytes:
        if rows.has(self._call_id, upto):
            raise _WrongError(f"{part} that it covers are there, and a tombstone says that they were removed")
        named = self.tombstones.named[part].get(str(seq))
        if upto < before or named is None:
            raise _WrongError(f"{part} that it covers are missing, and no tombstone names them")
        return bytes.fromhex(named)

    def _content(self, event: Row, samples: bytes, chunks: bytes) -> None:
        if event[1] < self._emptied and event[3] != _PRUNED:
            if event[6] != "{}":
                raise _WrongError("it says something, and a tombstone says that it was emptied")
            return
        if digest.event_digest(self._digest, self._uid, event[1:9], samples, chunks) != event[9]:
            covers = (event[7] - self.samples) + (event[8] - self.chunks)
            rows = f", or the {_rows(covers)} of samples and output that it covers," if covers else ""
            raise _WrongError(f"its digest does not hold: the event{rows} was changed")
        named = self.tombstones.events.get(event[1]) if self._emptied else None
        if named is not None and digest.rows_digest(self._taken).hex() != named:
            raise _WrongError("the emptied events before it are not those that it names")


def _folded(events: Sequence[Row]) -> dict[str, Any]:
    """The row that the events make; empty where they make none."""
    row = begin()
    try:
        for _, seq, at, kind, state, elapsed_ns, data, samples, chunks, _ in events:
            advance(row, seq, at, KINDS[kind], STATES[state], elapsed_ns, data, samples, chunks)
    except UNREADABLE:
        return {}
    return row


def _projected(row: Row | None, folded: dict[str, Any]) -> Iterator[str]:
    if row is None or not folded:
        yield "it has events and no row in call" if row is None else "its events do not make a call"
        return
    wrong = [name for name, value in zip(COLUMNS, row, strict=True) if value != folded[name]]
    if wrong:
        stored = row[COLUMNS.index(wrong[0])]
        others = f" (and {', '.join(wrong[1:])})" if wrong[1:] else ""
        yield f"call.{wrong[0]} is {_short(stored)}, its events say {_short(folded[wrong[0]])}{others}"


def _difference(found: Sequence[Row], expected: Sequence[Row]) -> str:
    odd = min(set(found) ^ set(expected), key=lambda row: str(row[:2]), default=("?", "?"))
    return f"{len(found)} rows, {len(expected)} expected; the first that differs: metric {odd[0]}, bucket {odd[1]}"


def _name(names: Sequence[str], code: Any) -> str:
    if code == UNBORN:
        return "nothing"
    return names[code] if isinstance(code, int) and 0 <= code < len(names) else _short(code)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
