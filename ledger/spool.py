"""The last words of a runner that cannot write its ledger: `FILE-spool-RUNNER`, beside it, with room reserved.

A line of JSON an event, after a first line that says whose they are; up to the first NUL byte. The runner holds an
exclusive flock on it for life: whoever gets the lock knows that the runner is gone, and takes the events in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ledger.append import EventIn, append_event
from ledger.batch import append_spooled
from ledger.failpoint import reach
from ledger.sqlite import scalar, sqlite3, transaction
from machine.facts import Gap
from machine.states import Kind, State

RESERVED = 256 * 1024
"""Bytes that a full disk still takes: about a thousand events."""
DIED = "the ledger could not be written, and then its runner died"


class Spool:
    """The spool of this process' runner. For one thread."""

    def __init__(self, path: Path, ledger: str, runner: str) -> None:
        """Make it, with its room. `path`: the ledger's; `ledger`: its id. OSError when the disk is too full for it."""
        self.path = Path(f"{os.path.realpath(path)}-spool-{runner}")
        # Nobody else touches a file without a first line, so that nobody can come between these steps.
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._file, 0, RESERVED)
            self._begin = self._end = self._put(0, {"ledger": ledger, "runner": runner})
        except BaseException:
            self.path.unlink()
            os.close(self._file)
            raise
        reach("spool.made")

    @property
    def empty(self) -> bool:
        """Whether everything is in the ledger."""
        return self._end == self._begin

    def write(self, event: EventIn) -> None:
        """Keep an event: durable on return. OSError, and nothing is kept."""
        reach("spool.begun")
        if self.empty:
            _sync_folder(self.path)
        line = {"call": event.uid, "call_id": event.call_id, "kind": event.kind, "state": event.state, "at": event.at}
        end = self._put(self._end, {**line, "elapsed_ns": event.elapsed_ns, "data": event.data})
        os.fdatasync(self._file)
        self._end = end
        reach("spool.durable")

    def finish(self) -> None:
        """Say that the runner came to its end in good order: nothing is missing but what the gaps name."""
        self._end = self._put(self._end, {"closed": True})
        os.fdatasync(self._file)

    def clear(self) -> None:
        """Everything is in the ledger. What cannot be removed does no harm: it is known by its look."""
        reach("spool.taken")
        os.pwrite(self._file, bytes(self._end - self._begin), self._begin)
        os.fdatasync(self._file)
        self._end = self._begin

    def close(self) -> None:
        """Let go of it; an empty one is removed."""
        if self.empty:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._file)

    def _put(self, offset: int, line: dict[str, Any]) -> int:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if os.pwrite(self._file, data, offset) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return offset + len(data)


def take_in(connection: sqlite3.Connection, path: Path, warn: Callable[[str], None]) -> int:
    """Append what runners that are gone could not write to the ledger at `path`; -> how many events.

    Whatever goes wrong, nothing is appended twice and nothing is removed that is not appended.
    """
    taken = 0
    for spool, file in _abandoned(Path(os.path.realpath(path))):
        reach("spool.found")
        found = _read(file)
        if found.events and found.ledger != _id(connection):
            found = found._replace(fault="it is another ledger's")
        count, strange = _append(connection, found) if found.events and not found.fault else (0, 0)
        taken += count
        fault = found.fault or (f"{strange} of its events belong to no call of this ledger" if strange else "")
        if fault:
            warn(f"{spool} holds what could not be written once, and cannot be taken in: {fault}")
        else:
            reach("spool.appended")
            spool.unlink()
    return taken


class _Found(NamedTuple):
    ledger: str
    runner: str
    events: list[EventIn]
    closed: bool
    fault: str = ""


def _abandoned(path: Path) -> Iterator[tuple[Path, int]]:
    """Every spool of the ledger whose runner is gone, locked while it is looked at."""
    begin = f"{path.name}-spool-"
    for name in sorted(os.listdir(path.parent)):
        if not name.startswith(begin):
            continue
        spool = path.parent / name
        with contextlib.suppress(FileNotFoundError, PermissionError), spool.open("r+b") as file:
            if os.fstat(file.fileno()).st_size == 0:
                continue  # just being made
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if os.fstat(file.fileno()).st_nlink:  # else somebody else has just taken it in
                yield spool, file.fileno()


def _read(file: int) -> _Found:
    content = os.pread(file, os.fstat(file).st_size, 0).partition(b"\0")[0]
    whole = content.rpartition(b"\n")[0]  # a line without its end was not acknowledged
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()] or [{"ledger": "", "runner": ""}]
        events = [_event(line, first["runner"]) for line in lines if "closed" not in line]
    except (ValueError, KeyError, TypeError) as error:
        return _Found("", "", [], closed=False, fault=f"a line cannot be read ({error})")
    return _Found(first["ledger"], first["runner"], events, closed=len(events) < len(lines))


def _event(line: dict[str, Any], runner: str) -> EventIn:
    state = None if line["state"] is None else State(line["state"])
    kind = Kind(line["kind"])
    return EventIn(line["call_id"], kind, state, line["at"], line["elapsed_ns"], line["data"], line["call"], runner)


def _append(connection: sqlite3.Connection, found: _Found) -> tuple[int, int]:
    """-> how many events were appended, and how many belong to no call of this ledger."""
    known: Counter[EventIn] = Counter()
    spans: dict[int | None, tuple[int, int]] = {}
    count = strange = 0
    with transaction(connection, "take-in"):
        for event in found.events:
            if scalar(connection, "SELECT uid FROM call WHERE id = ?", event.call_id) != event.uid:
                strange += 1
            elif append_spooled(connection, event, known):
                count += 1
                spans[event.call_id] = spans.get(event.call_id, (event.at, 0))[0], event.at
        for call_id, (since, until) in () if found.closed else spans.items():
            gap = Gap(of="samples", since=since, until=until, why=DIED)
            append_event(connection, EventIn(call_id, Kind.GAP, None, until, None, gap.dump()))
    return count, strange


def _id(connection: sqlite3.Connection) -> str:
    return str(scalar(connection, "SELECT value FROM meta WHERE key = 'ledger'"))


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot, and need not
            os.fsync(folder)
    finally:
        os.close(folder)
