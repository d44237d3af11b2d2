"""A big ledger, quickly and always the same: what the benchmarks of reading whole ledgers read.

    python benchmarks/big_ledger.py FILE [--events 1000000]

Calls of six lives in turn, ten events each in the mean, eight of them at a time; every 500th has 300 samples and
therefore histograms. Digests and rows of `call` are made by the library's own functions.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ledger import digest
from ledger.append import materialise
from ledger.projection import COLUMNS, Event, fold
from ledger.sqlite import connect_writer, sqlite3, transaction
from machine import facts
from machine.facts import Ended, Fact
from machine.samples import METRICS, Sample
from machine.states import Kind, Reason, State
from machine.table import VERDICTS, step
from machine.units import SECOND
from machine.verdict import Why

START = 1_760_000_000 * SECOND
MS = SECOND // 1000
ABREAST = 8
"""Calls whose events are written in turn."""
BATCH = 64
"""How often so many make one transaction."""
LONG = 500
"""Every LONG-th call has LONG_SAMPLES samples."""
LONG_SAMPLES = 300

_OWNER = facts.Owner(runner="runner", host="host", boot="boot", pid=1, pid_started=1, pid_namespace=4026531836)
_BY = facts.Requester(user="user", uid=1000, pid=2, host="host", via="cli")
_SPEC = {"image": "busybox", "command": ["sh", "-c", "echo out; sleep 1"], "network": "none", "memory": 64 * 2**20}
_DIGEST = "sha256:" + "d" * 64
_PREPARED = facts.Prepared(
    container="c" * 64,
    image_id=_DIGEST,
    image_digest=_DIGEST,
    cgroup_parent="/call-0199c841-9c00-7000-8000-000000000000",
)
_STARTED = facts.Started(engine_at=START, pid=42, deadline=START + 30 * SECOND)
_EVIDENCE = {"exits": {"die": 0, "inspect": 0}, "started_at": START, "finished_at": START + SECOND}
_GAP = facts.Gap(of="events", since=START, until=START + SECOND, why="the engine was not reachable")
_OTHER = _OWNER.replace(runner="another")


class Step(NamedTuple):
    """One event of a life: its kind, the state after it, what it says, and what was logged just before it."""

    kind: Kind
    state: State
    data: str
    samples: int
    chunks: int


def _life(*said: Fact, end: tuple[State, Ended] | None = None, after: Sequence[Fact] = ()) -> list[Step]:
    steps = [(Kind.SUBMITTED, ""), *((fact.kind, fact.dump()) for fact in said)]
    if end:
        steps += [(VERDICTS[end[0]], end[1].dump()), *((fact.kind, fact.dump()) for fact in after)]
    state: State | None = None
    life = []
    for kind, data in steps:
        state = step(state, kind)
        noted = kind not in (Kind.SUBMITTED, Kind.PULLED, Kind.PREPARED, Kind.STARTED)
        life.append(Step(kind, state, data, int(noted), int(noted)))
    return life


def _signals(why: Why) -> tuple[Fact, Fact]:
    return facts.Signalled(signal="TERM", why=why), facts.Signalled(signal="KILL", why=why)


def _ended(reason: Reason, **more: Any) -> Ended:
    return Ended(reason=reason, cpu_ns=30 * MS, mem_peak_bytes=2**22, evidence=_EVIDENCE, **more)


_PULLED = facts.Pulled(image="busybox", seconds=1.5)
_STATUS = facts.HealthChanged(status="healthy", output="all is well")
_DONE = facts.Cleaned(removed=True)
_UP = (_PREPARED, _STARTED)
_PAUSE = (facts.Paused(), facts.Resumed())
_LIVES = (
    _life(_PULLED, *_UP, facts.HealthAwaited(limit=SECOND), _STATUS, facts.Healthy(), *_PAUSE,
          end=(State.SUCCESS, _ended(Reason.EXIT, exit_code=0)), after=(_DONE,)),
    _life(*_UP, _GAP, end=(State.ERROR, _ended(Reason.EXIT, exit_code=3)), after=(_DONE,)),
    _life(*_UP, *_PAUSE, *_PAUSE, *_signals("deadline"),
          end=(State.TIMEOUT, _ended(Reason.DEADLINE, exit_code=137, signal="KILL")),
          after=(facts.OutputCut(stream="stdout", offset=40, lost=10), _DONE)),
    _life(*_UP, facts.OomSeen(source="cgroup"), _GAP, _STATUS, *_PAUSE,
          end=(State.KILLED, _ended(Reason.OOM, exit_code=137, signal="KILL", oom="certain")), after=(_DONE,)),
    _life(_PULLED, *_UP, facts.CancelRequested(by=_BY, comment="not needed"), *_signals("cancel"),
          facts.Adopted(owner=_OTHER, previous="runner", why="its runner is gone"),
          end=(State.CANCELLED, _ended(Reason.USER, exit_code=143, signal="TERM")), after=(_GAP, _DONE)),
    _life(*_UP, _GAP, *_PAUSE, _GAP, *_PAUSE),
)  # fmt: skip


def make(path: Path, events: int) -> None:
    """Write a new ledger of `events` events, or as many more as the last calls need to be whole."""
    numbers, written = itertools.count(1), 0
    with closing(connect_writer(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        with transaction(connection, "identity"):
            connection.execute("UPDATE meta SET value = ? WHERE key = 'ledger'", (_uid(0),))
        while written < events:
            with transaction(connection, "batch"):
                for _ in range(BATCH):
                    if written < events:
                        written += _insert(connection, [_call(next(numbers)) for _ in range(ABREAST)])


class Rows(NamedTuple):
    """The rows of one call, table by table."""

    call: tuple[Any, ...]
    events: list[tuple[Any, ...]]
    samples: list[tuple[Any, ...]]
    chunks: list[tuple[Any, ...]]


def _insert(connection: sqlite3.Connection, calls: Sequence[Rows]) -> int:
    events = sorted((row for call in calls for row in call.events), key=lambda row: row[2])
    for table, rows in (
        ("sample", (row for call in calls for row in call.samples)),
        ("log", (row for call in calls for row in call.chunks)),
        (f"call (id, {', '.join(COLUMNS)})", (call.call for call in calls)),
    ):
        _many(connection, table, list(rows))
    columns = "call_id, seq, at, kind, state, elapsed_ns, data, samples, chunks, digest"
    _many(connection, f"event ({columns})", events)
    for call in calls:
        if len(call.samples) == LONG_SAMPLES:
            materialise(connection, call.call[0])
    return len(events)


def _many(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def _uid(number: int) -> str:
    return f"0199c841-9c00-7000-8000-{number:012x}"


def _call(number: int) -> Rows:
    uid = _uid(number)
    at = START + number * 50 * MS
    samples, chunks = list(_samples(number, at)), list(_chunks(number, at))
    rows: list[tuple[Any, ...]] = []
    row: dict[str, Any] = {}
    before, seen, logged = digest.GENESIS, 0, 0
    for seq, happened in enumerate(_LIVES[number % len(_LIVES)], 1):
        data = _submitted(number, uid) if seq == 1 else happened.data
        new_seen = len(samples) if happened.state.terminal else min(len(samples), seen + happened.samples)
        new_logged = min(len(chunks), logged + happened.chunks)
        event = Event(
            seq, at, happened.kind, happened.state, None if seq == 1 else 100 * MS, data, new_seen, new_logged
        )
        coded = (seq, at, happened.kind.code, happened.state.code, *event[4:])
        tails = (_tail(samples[seen:new_seen]), _tail(chunks[logged:new_logged]))
        before = digest.event_digest(before, uid, coded, *tails)
        rows.append((number, *coded, before))
        row = fold(row, event)
        seen, logged, at = new_seen, new_logged, at + 100 * MS
    call = (number, *(row[name] for name in COLUMNS))
    return Rows(call, rows, samples[:seen], chunks[:logged])


def _tail(rows: list[tuple[Any, ...]]) -> bytes:
    return digest.rows_digest(row[1:] for row in rows) if rows else digest.EMPTY


def _submitted(number: int, uid: str) -> str:
    return facts.Submitted(
        uid=uid, name=f"batch-{number}", image="busybox", driver="docker", spec=_SPEC, owner=_OWNER
    ).dump()


def _samples(number: int, at: int) -> Iterator[tuple[Any, ...]]:
    for seq in range(1, (LONG_SAMPLES if number % LONG == 0 else 3) + 1):
        used = dict.fromkeys(METRICS, None) | {"cpu_total_ns": seq * 10 * MS, "cpu_total_pct": 12.5, "pids": 1}
        used |= {"mem_usage_bytes": 2**20 + seq * 4096, "mem_peak_bytes": 2**21 + seq, "net_rx_bytes": seq * 100}
        yield number, seq, at + seq * 100 * MS, *Sample(**used)  # type: ignore[arg-type]


def _chunks(number: int, at: int) -> Iterator[tuple[Any, ...]]:
    for seq in (1, 2):
        yield number, seq, at + seq * 100 * MS, seq, 0, b"call %d says a line of some length\n" % number * seq


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000)
    given = parser.parse_args()
    make(given.file, given.events)


if __name__ == "__main__":
    main()
