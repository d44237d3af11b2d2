"""The one thread that writes: group commit, transitions durable before they are acted on.

Events are committed at once, together with everything queued before them; samples and output ride along
and are durable with the next event or within a second.

While the file cannot be written (full, locked, gone), events of calls that are under way go to a spool beside it and
are durable there, samples and output are held, and new calls are refused. About once a second it is tried again: then
all of it is appended, in its order.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from ledger import lease
from ledger.append import ChunkIn, EventIn, SampleIn
from ledger.backlog import Backlog
from ledger.batch import Batch, Series, unwritable
from ledger.queue import Item, Posted, Queue
from ledger.spool import take_in
from ledger.sqlite import BUSY_MS, connect_writer, explain, scalar, sqlite3, transaction
from ledger.surroundings import Place
from machine.errors import LedgerError, RefusedError
from machine.facts import Owner

RETRY = 1.0
"""Seconds between two attempts to write what could not be written."""
BRIEF_MS = 100
"""How long such an attempt waits for a lock: others wait for it meanwhile."""


class Writer:
    """Owns the writing connection. Safe to call from any thread; `close` writes what is queued."""

    def __init__(
        self,
        path: Path,
        foreign: Callable[[], None] = lambda: None,
        owner: Owner | None = None,
        warn: Callable[[str], None] = lambda _: None,
        *,
        attend: bool = False,
    ) -> None:
        """Open (or create) the ledger; `foreign` is called when another process has written to it.

        `owner`: the runner whose lease is taken with its first event, or now to `attend`, and renewed until `close`;
        what runners that are gone have left in their spools is taken in. `warn` gets a line for a person.
        """
        self._path = path
        self._owner = owner
        self._beat_at = 0.0
        self._foreign = foreign
        self._warn = warn
        self._connection = connect_writer(path)
        self.place = Place(path, warn)
        self._queue = Queue()
        self._seqs: dict[Series, int] = {}
        self._over: deque[int] = deque()
        self._backlog = Backlog(path, owner.runner if owner else None)
        self._fault: Exception | None = None
        self._again_at = 0.0
        self._doubt = False
        self.dropped, self.lost = self._queue.dropped, self._queue.lost
        self.unwritten = ""
        """After `close`: why something is missing from the ledger, and where it is; else empty."""
        if owner is not None:
            self._begin(owner if attend else None)
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def event(self, event: EventIn) -> int:
        """Append an event; -> its call's id, once it is durable. LedgerError when it could not be written."""
        return self.post(event).result()

    def post(self, event: EventIn) -> Future[int]:
        """As `event`, without waiting: many at once share a commit. They are appended in the order of asking."""
        self.place.same_process()
        posted = Posted(event, Future())
        if not self._queue.post([posted]):
            raise LedgerError(f"the ledger {self._path} is closed")
        return posted.written

    def sample(self, item: SampleIn) -> bool:
        """Queue a sample; False (and counted in `dropped`) when the queue is full."""
        self.place.same_process()
        return self._queue.sample(item)

    def chunk(self, item: ChunkIn) -> None:
        """Queue a piece of output; waits while too much of it is queued."""
        self.place.same_process()
        self._queue.chunk(item)

    def forget(self, call_id: int) -> None:
        """Drop what is remembered of a call that is over."""
        self._over.append(call_id)

    def close(self) -> None:
        """Write what is queued and close the file. Idempotent."""
        self._queue.close()
        self._thread.join()

    def _begin(self, attending: Owner | None) -> None:
        try:
            with explain(self._path):
                take_in(self._connection, self._path, self._warn)
                if attending is not None:
                    self._backlog.reserve(self._connection)
                    with transaction(self._connection, "attend"):
                        lease.take(self._connection, attending, time.time_ns())
                    self._beat_at = time.monotonic()
        except BaseException:
            self._connection.close()
            raise

    def _run(self) -> None:
        version = self._version()
        while True:
            batch, last = self._queue.take()
            self._write(batch)
            if last:
                self._end()
                return
            self._beat()
            self.place.glance()
            if version != (version := self._version()):
                with contextlib.suppress(Exception):  # without this thread nobody could write any more
                    self._foreign()

    def _version(self) -> int:
        # Changes when another connection commits, never by our own commits.
        try:
            return int(scalar(self._connection, "PRAGMA data_version") or 0)
        except sqlite3.Error:
            return 0  # the file cannot be read just now; the next look, or the next commit, tells

    def _beat(self) -> None:
        if self._owner is not None and self._beat_at and time.monotonic() - self._beat_at >= lease.BEAT:
            self._beat_at = time.monotonic()
            with contextlib.suppress(Exception):  # the next one may get through
                lease.beat(self._connection, self._owner.runner, time.time_ns())

    def _write(self, batch: list[Item]) -> None:
        if self._fault is not None and (time.monotonic() >= self._again_at or not all(map(self._backlog.takes, batch))):
            self._catch_up()
        if self._fault is not None:
            self._backlog.hold(batch, self._fault, self._refuse)
        elif batch:
            self._commit(batch)
        if self._over and self._fault is None:
            self._forget()

    def _commit(self, batch: list[Item], *, apart: bool = False) -> None:
        try:
            answers: Sequence[int | Exception] = self._transact(batch, apart=apart)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            if unwritable(error):
                self._get_stuck(error)
                self._backlog.hold(batch, error, self._refuse)
                return
            if len(batch) > 1 and not apart:  # one of them is illegal: the others must not suffer for it
                self._commit(batch, apart=True)
                return
            answers = [error] * len(batch)
        self._answer(batch, answers)

    def _transact(self, items: Sequence[Item], name: str = "", *, apart: bool) -> list[int | Exception]:
        self.place.same_file()
        events = [item.event for item in items if isinstance(item, Posted)]
        owner = self._owner.runner if self._owner else None
        batch = Batch(self._connection, self._seqs, owner, doubtful=self._doubt)
        begins = bool(events) and not self._beat_at
        if begins:
            self._backlog.reserve(self._connection)
        with transaction(self._connection, name or (str(events[0].kind) if events else "samples")):
            if begins and self._owner is not None:
                lease.take(self._connection, self._owner, time.time_ns())
            append = batch.apart if apart else batch.append
            answers = [append(item) for item in items]
            self._doubt = True  # from here on an error does not mean that nothing was written
        self._doubt = False
        self._seqs.update(batch.seqs)
        if begins:
            self._beat_at = time.monotonic()
        return answers

    def _answer(self, items: Sequence[Item], answers: Sequence[int | Exception]) -> None:
        for item, answer in zip(items, answers, strict=True):
            if isinstance(item, Posted):
                if not item.written.done():  # else it was in the spool
                    self._tell(item, answer)
            elif isinstance(answer, Exception):
                self._queue.lose(item)
        self._queue.done(items)

    def _tell(self, posted: Posted, answer: int | Exception) -> None:
        if isinstance(answer, Exception):
            self._refuse(posted, answer)
        else:
            with contextlib.suppress(sqlite3.Error):  # its end will not find room if nothing can be read either
                self._backlog.own(posted.event, answer, self._connection)
            posted.written.set_result(answer)

    def _refuse(self, posted: Posted, error: Exception) -> None:
        event = posted.event
        if isinstance(error, sqlite3.IntegrityError):
            error = RefusedError(f"the ledger refused {event.kind} for call {event.call_id or event.uid}: {error}")
        posted.written.set_exception(self._explained(error))

    def _explained(self, error: Exception) -> Exception:
        try:
            with explain(self._path):
                raise error
        except Exception as explained:  # noqa: BLE001 - handed to the thread that waits
            return explained

    # While the file cannot be written.

    def _get_stuck(self, error: Exception) -> None:
        self._fault, self._again_at = error, time.monotonic() + RETRY
        self._queue.stick(stuck=True)
        self._be_patient(BRIEF_MS)

    def _be_patient(self, milliseconds: int) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def _catch_up(self) -> None:
        """Append what is held; the spool is not needed any more."""
        self._again_at = time.monotonic() + RETRY
        try:
            answers = self._transact(self._backlog.items, "catch-up", apart=True)
        except Exception as error:  # noqa: BLE001 - there is a next time
            self._fault = error
            return
        self._fault = None
        self._answer(self._backlog.items, answers)
        with contextlib.suppress(Exception):  # what stays in the spool is known by its look
            self._backlog.clear()
        self._queue.stick(stuck=False)
        self._be_patient(BUSY_MS)

    # The end.

    def _forget(self) -> None:
        while self._over:
            call_id = self._over.popleft()
            self._backlog.forget(call_id)
            for table in ("sample", "log"):
                self._seqs.pop((table, call_id), None)

    def _end(self) -> None:
        if self._fault is not None:
            self._be_patient(BUSY_MS)
            self._catch_up()
        with contextlib.suppress(Exception):
            if self._fault is not None:
                self._leave(self._fault)
            elif self._owner is not None and self._beat_at:  # the process' end says the same
                lease.end(self._connection, self._owner.runner)
        self._backlog.close()
        self._connection.close()

    def _leave(self, fault: Exception) -> None:
        spool, items = self._backlog.spool, self._backlog.items
        if not items:
            return
        place = f"is in {spool.path} and is taken in at the next start" if spool else "is lost"
        self.unwritten = f"{self._explained(fault)}; what was missing {place}"
        self._warn(self.unwritten)
        self._backlog.leave()
