"""The ledger as the rest of the program sees it: append, never update; read what others wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ledger.append import ChunkIn, EventIn, SampleIn
from ledger.images import Use, uses
from ledger.lease import Unsettled, unsettled
from ledger.sqlite import connect_reader, explain, scalar, sqlite3
from ledger.writer import Writer
from machine.facts import Owner
from machine.samples import Sample
from machine.states import REQUESTS, Kind, State


class Request(NamedTuple):
    """What somebody asked of a call through the ledger."""

    call_id: int
    seq: int
    kind: Kind
    data: str


class Ledger:
    """One ledger file, open for appending. Thread-safe; several processes may have one file open."""

    def __init__(
        self,
        path: str | Path,
        foreign: Callable[[], None] = lambda: None,
        owner: Owner | None = None,
        warn: Callable[[str], None] = lambda _: None,
        *,
        attend: bool = False,
    ) -> None:
        """Open or create `path`; `foreign` is called (in the writer's thread) after another process wrote.

        With an `owner`, what says where a call is can be appended only to that runner's own calls; and what runners
        that are gone could not write is taken in from their spools. With `attend` its lease is taken at once, and not
        with its first event. `warn` gets lines for a person.
        """
        self.path = Path(path)
        self._owner = owner.runner if owner else None
        self._writer = Writer(self.path, foreign, owner, warn, attend=attend)
        self._reader = connect_reader(self.path)
        self._reading = threading.Lock()
        self.id: str = scalar(self._reader, "SELECT value FROM meta WHERE key = 'ledger'")

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def submit(self, uid: str, at: int, data: str) -> int:
        """Begin a call; -> the id that its rows refer to. Durable on return."""
        return self._writer.event(EventIn(None, Kind.SUBMITTED, State.PREPARING, at, None, data, uid))

    def post_submitted(self, uid: str, at: int, data: str) -> Future[int]:
        """As `submit`, without waiting: many at once share a commit."""
        return self._writer.post(EventIn(None, Kind.SUBMITTED, State.PREPARING, at, None, data, uid))

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        """Append an event. Durable on return: in the file or, while that cannot be written, in the spool beside it.

        `state` None: a note by somebody who does not own the call. TakenOverError when another runner owns it by now.
        """
        owner = None if state is None else self._owner
        self._writer.event(EventIn(call_id, kind, state, at, elapsed_ns, data, owner=owner))

    def post(self, call_id: int, kind: Kind, state: State | None, at: int, data: str, owner: str) -> Future[int]:
        """As `append` for a call that `owner` must own, without waiting: many at once share a commit."""
        return self._writer.post(EventIn(call_id, kind, state, at, None, data, owner=owner))

    def adopt(self, call_id: int, previous: str, at: int, data: str) -> None:
        """Take a call over from the runner `previous`. TakenOverError when somebody else was first."""
        self._writer.event(EventIn(call_id, Kind.ADOPTED, None, at, None, data, owner=previous))

    def unsettled(self) -> list[Unsettled]:
        """Every call about which there is more to write, with the lease of its runner."""
        with self._read() as reader:
            return unsettled(reader)

    def sample(self, call_id: int, at: int, sample: Sample) -> bool:
        """Append a sample, durable within a second; False when it had to be dropped."""
        return self._writer.sample(SampleIn(call_id, at, sample))

    def output(self, call_id: int, at: int, stream: int, offset: int, data: bytes) -> None:
        """Append captured output, durable within a second."""
        self._writer.chunk(ChunkIn(call_id, at, stream, offset, data))

    def dropped(self, call_id: int) -> int:
        """How many samples of a call could not be kept."""
        return self._writer.dropped.get(call_id, 0)

    def lost_output(self, call_id: int) -> int:
        """How many bytes of a call's output could not be written."""
        return self._writer.lost.get(call_id, 0)

    @property
    def unwritten(self) -> str:
        """After `close`: why some of what was recorded is not in the file, and where it is; else empty."""
        return self._writer.unwritten

    def requests(self, call_ids: Iterable[int]) -> list[Request]:
        """Every request (`machine.states.REQUESTS`) in the log of these calls, oldest first."""
        wanted = json.dumps(sorted(set(call_ids)))  # there is a limit to the number of parameters
        statement = (
            "SELECT call_id, seq, kind, data FROM event WHERE call_id IN (SELECT value FROM json_each(?)) "
            f"AND kind IN ({', '.join(str(kind.code) for kind in REQUESTS.values())}) ORDER BY id"
        )
        kinds = tuple(Kind)
        with self._read() as reader:
            rows: list[Any] = reader.execute(statement, (wanted,)).fetchall()
        return [Request(call_id, seq, kinds[kind], data) for call_id, seq, kind, data in rows]

    def images(self) -> list[Use]:
        """Which images calls have used."""
        with self._read() as reader:
            return uses(reader)

    def keyed(self, key: str) -> str | None:
        """The uid of the call with this idempotency key."""
        with self._read() as reader:
            found = scalar(reader, "SELECT uid FROM call WHERE idempotency_key = ?", key)
        return None if found is None else str(found)

    def forget(self, call_id: int) -> None:
        """Say that nothing more will be appended to a call by this process."""
        self._writer.forget(call_id)

    def close(self) -> None:
        """Write what is queued and close. Idempotent; nothing in a forked child, whose it is not to close."""
        if self._writer.place.forked():
            return
        with self._reading:
            self._reader.close()  # first: the last connection to close is the one that checkpoints
        self._writer.close()

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        self._writer.place.same_process()
        with explain(self.path), self._reading:
            yield self._reader
