"""The only thing that may delete: what calls that ended long ago have left in the log, each under a tombstone.

The tombstone (an event `pruned`) comes first, in the same transaction, with the digest of everything that goes
after it: the chain, and the head of the whole ledger, still hold. A call is never removed altogether: its events
keep their times, states and digests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from ledger import digest
from ledger.append import EventIn, append_event
from ledger.examine import Examination, Finding, Tally
from ledger.projection import KEPT
from ledger.sqlite import has_reset_bug, scalar, sqlite3, transaction
from machine.facts import Pruned, Requester
from machine.samples import METRICS
from machine.states import Kind

ROWS = 20_000
"""How many rows go in one transaction, more or less: writers wait for its end, some 0.2 s."""
PAGES = 1024
"""How many pages are returned in one transaction."""
SAMPLE_BYTES, BUCKET_BYTES = 77, 52
"""What a row takes in the file, as measured; it depends on the values."""
EVERYTHING = frozenset(("samples", "output", "events"))

_LEFT = {
    "samples": "EXISTS (SELECT 1 FROM sample WHERE call_id = call.id)",
    "output": "EXISTS (SELECT 1 FROM log WHERE call_id = call.id)",
    "events": "instr(coalesce(pruned, ''), 'events') = 0",
}
_ROWS = {
    "sample": f"SELECT seq, at, {', '.join(METRICS)} FROM sample WHERE call_id = ? AND seq > ? ORDER BY seq",
    "log": "SELECT seq, at, stream, offset_bytes, data FROM log WHERE call_id = ? AND seq > ? ORDER BY seq",
}
_EVENTS = (
    "SELECT id, seq, at, kind, state, elapsed_ns, samples, chunks, digest FROM event WHERE call_id = ? ORDER BY seq"
)
_HISTOGRAM = (
    "SELECT metric, bucket, t_first, t_last, count, min, mean, max, last FROM histogram "
    "WHERE call_id = ? ORDER BY metric, bucket"
)
_WEIGHT = {
    "samples": f"SELECT count(*), {SAMPLE_BYTES} * count(*) FROM sample WHERE call_id = ?",
    "output": "SELECT count(*), coalesce(sum(length(data)), 0) FROM log WHERE call_id = ?",
    "events": (
        "SELECT count(*), coalesce(sum(length(CAST(data AS BLOB))), 0) FROM event "
        f"WHERE call_id = ? AND kind <> {Kind.PRUNED.code} AND data <> '{{}}'"
    ),
    "buckets": f"SELECT count(*), {BUCKET_BYTES} * count(*) FROM histogram WHERE call_id = ?",
}
_REMOVE = {
    "samples": "DELETE FROM sample WHERE call_id = ?",
    "output": "DELETE FROM log WHERE call_id = ?",
    "events": f"UPDATE event SET data = '{{}}' WHERE call_id = ? AND kind <> {Kind.PRUNED.code} AND data <> '{{}}'",
    "buckets": "DELETE FROM histogram WHERE call_id = ?",
}


class Amount(NamedTuple):
    """What goes: of how many calls, the events emptied, the rows removed, and the bytes they take, about."""

    calls: int = 0
    events: int = 0
    samples: int = 0
    output: int = 0
    buckets: int = 0
    bytes: int = 0

    def plus(self, other: Amount) -> Amount:
        """The two together."""
        return Amount(*map(sum, zip(self, other, strict=True)))


class Step(NamedTuple):
    """Where pruning stands: `done` calls of `total`, what is removed so far, what is wrong with calls left alone."""

    done: int
    total: int
    removed: Amount
    damaged: tuple[Finding, ...]


def prunable(connection: sqlite3.Connection, before: int, parts: Iterable[str]) -> list[tuple[int, int]]:
    """The calls that ended at or before `before` (ns, UTC) and are settled, and still have some of `parts`.

    -> (id, its rows in the log). `parts`: of EVERYTHING; `events` stands for all the contents of a call.
    """
    return connection.execute(
        f"SELECT id, events + samples + chunks FROM call WHERE {_condition(parts)} ORDER BY id", (before,)
    ).fetchall()


def weigh(connection: sqlite3.Connection, call_id: int, parts: Iterable[str]) -> Amount:
    """What pruning `parts` of a call would remove."""
    found = {part: connection.execute(_WEIGHT[part], (call_id,)).fetchone() for part in _all(parts)}
    counts = {part: count for part, (count, _) in found.items()}
    return Amount(1, **counts, bytes=sum(size for _, size in found.values()))


def prune(connection: sqlite3.Connection, before: int, parts: Iterable[str], by: Requester) -> Iterator[Step]:
    """Prune, a transaction after the other; yields after each, when everything so far is durable.

    A damaged call is left alone: its contents are the evidence. Between two transactions it rests as long as it has
    worked: SQLite lets writers in by chance, not in turn.
    """
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")  # see `ledger.verify`
    parts = frozenset(parts)
    found = prunable(connection, before, parts)
    step = Step(0, len(found), Amount(), ())
    for batch in _batches(found):
        begun = time.monotonic()
        with transaction(connection, "prune"):
            results = [_prune(connection, call_id, parts, by) for call_id in _still(connection, batch, before, parts)]
        removed = step.removed
        for result in results:
            removed = removed.plus(result) if isinstance(result, Amount) else removed
        damaged = tuple(result for result in results if isinstance(result, Finding))
        step = Step(step.done + len(batch), step.total, removed, step.damaged + damaged)
        yield step
        time.sleep(time.monotonic() - begun)


def vacuum(connection: sqlite3.Connection) -> Iterator[int]:
    """Return free pages to the file system, PAGES at a time; yields how many are left."""
    left = int(scalar(connection, "PRAGMA freelist_count"))
    while left:
        yield left
        begun = time.monotonic()
        with transaction(connection, "vacuum"):
            connection.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()  # a row a page: all must be taken
        before, left = left, int(scalar(connection, "PRAGMA freelist_count"))
        if left >= before:  # a file without auto_vacuum keeps them, for rows to come
            return
        time.sleep(time.monotonic() - begun)
    if not has_reset_bug():
        # The file shrinks when the WAL is written back. Readers may be in the way: then the next checkpoint does it.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _condition(parts: Iterable[str]) -> str:
    parts = frozenset(parts)
    left = " OR ".join(_LEFT[part] for part in sorted({"events"} if "events" in parts else parts))
    return f"cleaned = 1 AND ended_at <= ? AND ({left})"


def _all(parts: Iterable[str]) -> list[str]:
    # The histogram outlives its samples where only these go: it is what they are worth to most.
    return ["samples", "output", "events", "buckets"] if "events" in parts else sorted(parts)


def _batches(found: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    batch, rows = [], 0
    for call_id, size in found:
        batch.append(call_id)
        rows += size
        if rows >= ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _still(connection: sqlite3.Connection, batch: Sequence[int], before: int, parts: Iterable[str]) -> list[int]:
    """Those of a batch that nobody else has pruned meanwhile."""
    marks = ", ".join("?" * len(batch))
    statement = f"SELECT id FROM call WHERE {_condition(parts)} AND id IN ({marks}) ORDER BY id"
    return [call_id for (call_id,) in connection.execute(statement, (before, *batch))]


def _prune(connection: sqlite3.Connection, call_id: int, parts: frozenset[str], by: Requester) -> Amount | Finding:
    if damage := _damage(connection, call_id):
        return damage
    going = weigh(connection, call_id, parts)
    tombstone = _tombstone(connection, call_id, parts, by)
    append_event(connection, EventIn(call_id, Kind.PRUNED, None, time.time_ns(), None, tombstone.dump()))
    for part in _all(parts):
        connection.execute(_REMOVE[part], (call_id,))
    return going


def _damage(connection: sqlite3.Connection, call_id: int) -> Finding | None:
    """What is wrong with a call: once its events are emptied nobody could find it any more.

    Rows after its last event are no reason to keep it: the tombstone names them, under its own number.
    """
    examination = Examination(connection, Tally(), call_id, call_id, late=True)
    return next(chain.from_iterable(examination.findings()), None)


def _tombstone(connection: sqlite3.Connection, call_id: int, parts: frozenset[str], by: Requester) -> Pruned:
    events = connection.execute(_EVENTS, (call_id,)).fetchall()
    whole = "events" in parts
    samples = output = events_digest = kept = None
    if whole or "samples" in parts:
        samples = _digests(connection, "sample", call_id, [event[6] for event in events])
    if whole or "output" in parts:
        output = _digests(connection, "log", call_id, [event[7] for event in events])
    if whole:
        events_digest = digest.rows_digest(events).hex()
        row = connection.execute(f"SELECT {', '.join(KEPT)} FROM call WHERE id = ?", (call_id,)).fetchone()
        kept = {name: value for name, value in zip(KEPT, row, strict=True) if value is not None}
    return Pruned(
        by=by,
        samples=samples or None,
        output=output or None,
        events=events_digest,
        kept=kept,
        histogram=_histogram(connection, call_id) if samples and not whole else None,
    )


def _digests(connection: sqlite3.Connection, table: str, call_id: int, upto: Sequence[int]) -> dict[str, str]:
    """S or C of each event of which there are rows: {its seq: digest}. The tombstone covers what follows the last."""
    rows = connection.execute(_ROWS[table], (call_id, 0))
    row, found = rows.fetchone(), {}
    for seq, last in enumerate((*upto, None), 1):
        covered = []
        while row is not None and (last is None or row[0] <= last):
            covered.append(row)
            row = rows.fetchone()
        if covered:
            found[str(seq)] = digest.rows_digest(covered).hex()
    return found


def _histogram(connection: sqlite3.Connection, call_id: int) -> str | None:
    rows = connection.execute(_HISTOGRAM, (call_id,)).fetchall()
    return digest.rows_digest(rows).hex() if rows else None
