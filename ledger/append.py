"""The appends themselves, inside a transaction that the caller began."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ledger import digest
from ledger.histogram import MAX_POINTS, decimated
from ledger.projection import COLUMNS, Event, fold
from ledger.sqlite import scalar, sqlite3
from machine.errors import LedgerError, TakenOverError
from machine.samples import METRICS, Sample
from machine.states import Kind, State

_EVENT = (
    "INSERT INTO event (call_id, seq, at, kind, state, elapsed_ns, data, samples, chunks, digest) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SAMPLE = f"INSERT INTO sample (call_id, seq, at, {', '.join(METRICS)}) VALUES ({', '.join('?' * (3 + len(METRICS)))})"
_LOG = "INSERT INTO log (call_id, seq, at, stream, offset_bytes, data) VALUES (?, ?, ?, ?, ?, ?)"
# Not INSERT OR REPLACE: a second call of the same uid would take the place of the first one.
_CALL = (
    f"INSERT INTO call (id, {', '.join(COLUMNS)}) VALUES ({', '.join('?' * (1 + len(COLUMNS)))}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS)}"
)
_HISTOGRAM = "INSERT INTO histogram VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SAMPLES = f"SELECT at, {', '.join(METRICS)} FROM sample WHERE call_id = ?"
_SINCE = {
    "sample": f"SELECT seq, at, {', '.join(METRICS)} FROM sample WHERE call_id = ? AND seq > ? ORDER BY seq",
    "log": "SELECT seq, at, stream, offset_bytes, data FROM log WHERE call_id = ? AND seq > ? ORDER BY seq",
}


class EventIn(NamedTuple):
    """An event to append. `call_id` None submits a new call.

    `owner`: the runner that must own the call for this to be taken; None for a note by anybody.
    """

    call_id: int | None
    kind: Kind
    state: State | None
    at: int
    elapsed_ns: int | None
    data: str
    uid: str = ""
    owner: str | None = None


class SampleIn(NamedTuple):
    """A sample to append."""

    call_id: int
    at: int
    sample: Sample


class ChunkIn(NamedTuple):
    """A piece of output to append; `stream` is 1 (stdout) or 2 (stderr)."""

    call_id: int
    at: int
    stream: int
    offset: int
    data: bytes


def append_event(connection: sqlite3.Connection, event: EventIn) -> int:
    """Append, chain and project one event; -> its call's id.

    A `state` of None means "where the call is": a note by a process that does not own it.
    """
    call_id, row = _row(connection, event.call_id)
    if event.call_id is not None and not row:
        raise LedgerError(f"there is no call {event.call_id} in this ledger")
    if event.owner is not None and row and row["runner"] != event.owner:
        raise TakenOverError(f"call {row['uid']} is not this runner's: {row['runner']} conducts it")
    state = event.state or State(row["state"])
    seq, before = (row["events"] + 1, _last_digest(connection, call_id)) if row else (1, digest.GENESIS)
    samples, samples_digest = _tail(connection, "sample", call_id, row["samples"] if row else 0)
    chunks, chunks_digest = _tail(connection, "log", call_id, row["chunks"] if row else 0)
    appended = Event(seq, event.at, event.kind, state, event.elapsed_ns, event.data, samples, chunks)
    coded = (seq, event.at, event.kind.code, state.code, *appended[4:])
    chained = digest.event_digest(before, row["uid"] if row else event.uid, coded, samples_digest, chunks_digest)
    connection.execute(_EVENT, (call_id, *coded, chained))
    ended = bool(row) and row["ended_at"] is None and state.terminal
    row = fold(row, appended)
    connection.execute(_CALL, (call_id, *(row[name] for name in COLUMNS)))
    if ended and samples > MAX_POINTS:
        materialise(connection, call_id)
    return call_id


def append_sample(connection: sqlite3.Connection, seq: int, item: SampleIn) -> None:
    """Append one sample as number `seq` of its call."""
    connection.execute(_SAMPLE, (item.call_id, seq, item.at, *item.sample))


def append_chunk(connection: sqlite3.Connection, seq: int, item: ChunkIn) -> None:
    """Append one piece of output as number `seq` of its call."""
    connection.execute(_LOG, (item.call_id, seq, item.at, item.stream, item.offset, item.data))


def last_seq(connection: sqlite3.Connection, table: str, call_id: int) -> int:
    """The highest seq of a call in `sample` or `log`; 0 for none."""
    return int(scalar(connection, f"SELECT coalesce(max(seq), 0) FROM {table} WHERE call_id = ?", call_id))


def materialise(connection: sqlite3.Connection, call_id: int) -> None:
    """Make the call's histogram from its samples."""
    rows = histogram_rows(connection, call_id, last_seq(connection, "sample", call_id))
    connection.executemany(_HISTOGRAM, rows)


def histogram_rows(connection: sqlite3.Connection, call_id: int, samples: int) -> Iterator[tuple[Any, ...]]:
    """The rows of `histogram` that the first `samples` samples of a call make, bucket by bucket."""
    rows = connection.execute(f"{_SAMPLES} AND seq <= ? ORDER BY seq", (call_id, samples))
    points = ((row[0], dict(zip(METRICS, row[1:], strict=True))) for row in rows)
    for number, bucket in enumerate(decimated(points, samples)):
        for name, summary in bucket.metrics.items():
            yield call_id, METRICS.index(name), number, bucket.t_first, bucket.t_last, *summary


def _row(connection: sqlite3.Connection, call_id: int | None) -> tuple[int, dict[str, Any]]:
    if call_id is None:
        return int(scalar(connection, "SELECT coalesce(max(id), 0) + 1 FROM call")), {}
    row = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM call WHERE id = ?", (call_id,)).fetchone()
    return call_id, dict(zip(COLUMNS, row, strict=True)) if row else {}


def _last_digest(connection: sqlite3.Connection, call_id: int) -> bytes:
    return bytes(scalar(connection, "SELECT digest FROM event WHERE call_id = ? ORDER BY seq DESC LIMIT 1", call_id))


def _tail(connection: sqlite3.Connection, table: str, call_id: int, done: int) -> tuple[int, bytes]:
    """What was logged since the last event: how many rows there are now, and the digest of the new ones."""
    rows = connection.execute(_SINCE[table], (call_id, done)).fetchall()
    return (done + len(rows), digest.rows_digest(rows)) if rows else (done, digest.EMPTY)
