"""What is appended in one transaction: samples and output get their numbers, owners are looked up once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ledger import lease
from ledger.append import EventIn, SampleIn, append_chunk, append_event, append_sample, last_seq
from ledger.queue import Item, Posted
from ledger.sqlite import scalar, sqlite3
from machine.errors import CallsError, TakenOverError
from machine.facts import Gap
from machine.states import Kind

Series = tuple[str, int]
"""The rows of one call in `sample` or `log`."""


class Batch:
    """The appends of one transaction. `seqs`: the last number of each series, once this is committed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        committed: dict[Series, int],
        owner: str | None,
        *,
        doubtful: bool = False,
    ) -> None:
        """`committed`: the last numbers, as far as they are known; what is looked up is added.

        `owner`: the runner whose calls take samples and output; None: anybody's.

        `doubtful`: an attempt to write the same may have succeeded; what is there is not appended again.
        """
        self._connection = connection
        self._committed = committed
        self._owner = owner
        self._doubtful = doubtful
        self._owned: dict[int, bool] = {}
        self._there: dict[Series, int] = {}
        self._known: Counter[EventIn] = Counter()
        self.seqs: dict[Series, int] = {}

    def append(self, item: Item) -> int:
        """Append an item; -> its call's id. Whatever is raised, the whole transaction is off."""
        if isinstance(item, Posted):
            return append_event(self._connection, item.event)
        if not self._owns(item.call_id):
            raise TakenOverError(f"call {item.call_id} is not this runner's")
        series = ("sample" if isinstance(item, SampleIn) else "log", item.call_id)
        seq = self._last(series) + 1
        if self._there.get(series, 0) > 0:
            self._there[series] -= 1
            return item.call_id
        if isinstance(item, SampleIn):
            append_sample(self._connection, seq, item)
        else:
            append_chunk(self._connection, seq, item)
        self.seqs[series] = seq
        return item.call_id

    def apart(self, item: Item) -> int | Exception:
        """As `append`, but what is refused is its own error only, which is returned. Unwritable is raised."""
        try:
            with _savepoint(self._connection):
                if isinstance(item, Posted) and item.written.done():
                    append_spooled(self._connection, item.event, self._known)
                    return item.event.call_id or 0
                if isinstance(item, Posted) and self._doubtful and _is_there(self._connection, item.event, self._known):
                    return item.event.call_id or 0
                return self.append(item)
        except Exception as error:
            if unwritable(error):
                raise
            return error

    def _last(self, series: Series) -> int:
        if series not in self.seqs:
            last = self._committed.get(series)
            if self._doubtful or last is None:
                last = last_seq(self._connection, *series)
                self._there[series] = last - self._committed.setdefault(series, last)
            self.seqs[series] = last
        return self.seqs[series]

    def _owns(self, call_id: int) -> bool:
        if self._owner is None:
            return True
        if call_id not in self._owned:
            self._owned[call_id] = lease.owner_of(self._connection, call_id) == self._owner
        return self._owned[call_id]


def unwritable(error: BaseException) -> bool:
    """Whether the file is at fault (full, locked, damaged, gone) and not what was to be written."""
    return isinstance(error, OSError | sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def append_spooled(connection: sqlite3.Connection, event: EventIn, known: Counter[EventIn]) -> bool:
    """Append an event that was acknowledged earlier, unless it is there; -> whether it was not.

    `known` counts the events of one spool, so that two that are alike are two. What the log refuses by now is kept
    in a gap. LedgerError when there is no such call.
    """
    if _is_there(connection, event, known):
        return False
    try:
        with _savepoint(connection):
            append_event(connection, event)
    except (CallsError, sqlite3.IntegrityError) as error:
        gap = Gap(of="events", since=event.at, until=event.at, why=f"{event.kind} was refused ({error}): {event.data}")
        note = EventIn(event.call_id, Kind.GAP, None, event.at, None, gap.dump())
        if _is_there(connection, note, known):
            return False
        append_event(connection, note)
    return True


def _is_there(connection: sqlite3.Connection, event: EventIn, known: Counter[EventIn]) -> bool:
    known[event] += 1
    alike = "SELECT count(*) FROM event WHERE call_id = ? AND kind = ? AND at = ? AND data = ? AND elapsed_ns IS ?"
    values = (event.call_id, event.kind.code, event.at, event.data, event.elapsed_ns)
    return int(scalar(connection, alike, *values)) >= known[event]


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT item")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # (a full disk has ended it already)
            connection.execute("ROLLBACK TO item")
        raise
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE item")
