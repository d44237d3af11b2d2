"""The one thread that writes: group commit, transitions durable before they are acted on.

Events are committed at once, together with everything queued before them; samples and output ride along
and are durable with the next event or within a second. The queue is bounded: when it is full samples are
dropped and counted, output waits, and an event is never dropped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from ledger import lease
from ledger.append import ChunkIn, EventIn, SampleIn, append_chunk, append_event, append_sample, last_seq
from ledger.sqlite import connect_writer, explain, scalar, sqlite3, transaction
from machine.errors import LedgerError, RefusedError
from machine.facts import Owner

MAX_SAMPLES = 100_000
MAX_CHUNK_BYTES = 16 * 2**20
LINGER = 1.0
GLANCE = 0.2
"""How often, in seconds, the writer looks whether another process has written (a look costs microseconds)."""

Item = tuple[EventIn, "Future[int]"] | SampleIn | ChunkIn


class Writer:
    """Owns the writing connection. Safe to call from any thread; `close` writes what is queued."""

    def __init__(self, path: Path, foreign: Callable[[], None] = lambda: None, owner: Owner | None = None) -> None:
        """Open (or create) the ledger; `foreign` is called when another process has written to it.

        `owner`: the runner whose lease is taken with its first event, and renewed until `close`.
        """
        self._path = path
        self._owner = owner
        self._beat_at = 0.0
        self._foreign = foreign
        self._connection = connect_writer(path)
        self._queue: deque[Item] = deque()
        self._wake = threading.Condition()
        self._urgent = False
        self._closing = False
        self._samples = 0
        self._chunk_bytes = 0
        self._seqs: dict[tuple[str, int], int] = {}
        self.dropped: defaultdict[int, int] = defaultdict(int)
        self.lost: defaultdict[int, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def event(self, event: EventIn) -> int:
        """Append an event; -> its call's id, once it is durable. LedgerError when it could not be written."""
        return self.post(event).result()

    def post(self, event: EventIn) -> Future[int]:
        """As `event`, without waiting: many at once share a commit. They are appended in the order of asking."""
        written: Future[int] = Future()
        with self._wake:
            if self._closing:
                raise LedgerError(f"the ledger {self._path} is closed")
            self._queue.append((event, written))
            self._urgent = True
            self._wake.notify_all()
        return written

    def sample(self, item: SampleIn) -> bool:
        """Queue a sample; False (and counted in `dropped`) when the queue is full."""
        with self._wake:
            if self._closing or self._samples >= MAX_SAMPLES:
                self.dropped[item.call_id] += 1
                return False
            self._queue.append(item)
            self._samples += 1
        return True

    def chunk(self, item: ChunkIn) -> None:
        """Queue a piece of output; waits while too much of it is queued."""
        with self._wake:
            while self._chunk_bytes >= MAX_CHUNK_BYTES and not self._closing:
                self._urgent = True
                self._wake.notify_all()
                self._wake.wait()
            self._queue.append(item)
            self._chunk_bytes += len(item.data)

    def close(self) -> None:
        """Write what is queued and close the file. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()

    def _run(self) -> None:
        version = self._version()
        lingered = 0.0
        while True:
            with self._wake:
                if not (self._urgent or self._closing):
                    self._wake.wait(GLANCE)
                urgent, closing, self._urgent = self._urgent, self._closing, False
                lingered += GLANCE
                batch: list[Item] = []
                if urgent or closing or lingered >= LINGER:
                    batch, lingered = list(self._queue), 0.0
                    self._queue.clear()
                    self._samples = self._chunk_bytes = 0
                    self._wake.notify_all()
            if batch:
                self._commit(batch)
            if closing:
                self._end()
                return
            self._beat()
            if version != (version := self._version()):
                with contextlib.suppress(Exception):  # without this thread nobody could write any more
                    self._foreign()

    def _end(self) -> None:
        if self._owner is not None and self._beat_at:
            with contextlib.suppress(sqlite3.Error):  # the process' end says the same
                lease.end(self._connection, self._owner.runner)
        self._connection.close()

    def _version(self) -> int:
        # Changes when another connection commits, never by our own commits.
        try:
            return int(scalar(self._connection, "PRAGMA data_version") or 0)
        except sqlite3.Error:
            return 0  # the file cannot be read just now; the next look, or the next commit, tells

    def _commit(self, batch: Sequence[Item]) -> None:
        try:
            ids = self._transact(batch)
        except (sqlite3.OperationalError, OSError) as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            if len(batch) == 1:
                self._fail(batch, error)
            else:  # one of them is illegal: the others must not suffer for it
                for item in batch:
                    self._commit([item])
        else:
            for item, call_id in zip(batch, ids, strict=True):
                if not isinstance(item, SampleIn | ChunkIn):
                    item[1].set_result(call_id)

    def _transact(self, batch: Sequence[Item]) -> list[int]:
        seqs = dict(self._seqs)
        first = next((item[0] for item in batch if not isinstance(item, SampleIn | ChunkIn)), None)
        with transaction(self._connection, str(first.kind) if first else "samples"):
            begins = self._owner is not None and not self._beat_at and first is not None
            if begins and self._owner is not None:
                lease.take(self._connection, self._owner, time.time_ns())
            owned: dict[int, bool] = {}
            ids = [self._append(item, seqs, owned) for item in batch]
        self._seqs = seqs
        if begins:
            self._beat_at = time.monotonic()
        return ids

    def _beat(self) -> None:
        if self._owner is not None and self._beat_at and time.monotonic() - self._beat_at >= lease.BEAT:
            self._beat_at = time.monotonic()
            with contextlib.suppress(sqlite3.Error):  # the next one may get through
                lease.beat(self._connection, self._owner.runner, time.time_ns())

    def _append(self, item: Item, seqs: dict[tuple[str, int], int], owned: dict[int, bool]) -> int:
        if not isinstance(item, SampleIn | ChunkIn):
            return append_event(self._connection, item[0])
        if not self._owns(item.call_id, owned):
            self._count_lost(item)
        elif isinstance(item, SampleIn):
            append_sample(self._connection, self._next(seqs, "sample", item.call_id), item)
        else:
            append_chunk(self._connection, self._next(seqs, "log", item.call_id), item)
        return item.call_id

    def _owns(self, call_id: int, owned: dict[int, bool]) -> bool:
        """Whether the call is still this runner's; looked up once a transaction. What has no owner is everybody's."""
        if self._owner is None:
            return True
        if call_id not in owned:
            owned[call_id] = lease.owner_of(self._connection, call_id) == self._owner.runner
        return owned[call_id]

    def _count_lost(self, item: SampleIn | ChunkIn) -> None:
        if isinstance(item, SampleIn):
            self.dropped[item.call_id] += 1
        else:
            self.lost[item.call_id] += len(item.data)

    def _next(self, seqs: dict[tuple[str, int], int], table: str, call_id: int) -> int:
        key = table, call_id
        if key not in seqs:
            seqs[key] = last_seq(self._connection, table, call_id)
        seqs[key] += 1
        return seqs[key]

    def _fail(self, batch: Sequence[Item], error: Exception) -> None:
        for item in batch:
            if isinstance(item, SampleIn | ChunkIn):
                self._count_lost(item)
            else:
                item[1].set_exception(self._explained(item[0], error))

    def _explained(self, event: EventIn, error: Exception) -> Exception:
        if isinstance(error, sqlite3.IntegrityError):
            return RefusedError(f"the ledger refused {event.kind} for call {event.call_id or event.uid}: {error}")
        try:
            with explain(self._path):
                raise error
        except Exception as explained:  # noqa: BLE001 - handed to the thread that waits
            return explained

    def forget(self, call_id: int) -> None:
        """Drop what is remembered of a call that is over."""
        with self._wake:
            for table in ("sample", "log"):
                self._seqs.pop((table, call_id), None)
