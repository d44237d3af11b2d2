"""A copy of a ledger as it is at one moment, while others write to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ledger.sqlite import connect_reader, explain, scalar, sqlite3
from machine.errors import UsageError

PAGES = 2560
"""How many pages are copied between two reports of progress (10 MiB)."""
_BESIDE = ("", "-journal", "-wal", "-shm")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

Progress = Callable[[int, int], None]
"""Is told how much is done, of how much."""


class Copy(NamedTuple):
    """What is in a copy."""

    calls: int
    events: int
    bytes: int


def backup(path: Path, to: Path, progress: Progress = lambda *_: None) -> Copy:
    """Copy the ledger at `path` to the file `to`, as it is: an older one stays of its version.

    UsageError when `to` is there already; it appears only when it is whole, with mode 0600.
    """
    with closing(connect_reader(path, as_is=True)) as source, whole(to) as part:
        # Within one read transaction: by itself SQLite begins anew whenever somebody writes. Beside a writer at full
        # speed 333 MiB took 0.9 s in this way; without it, 97 % were left after 30 s. VACUUM INTO is as fast, but
        # tells nothing meanwhile, and another file is no backup: it may number the rows of `log` anew.
        with explain(path):
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
        with explain(to), closing(sqlite3.connect(part.absolute(), isolation_level=None)) as target:
            for pragma in ("journal_mode = OFF", "synchronous = OFF"):  # half a copy is thrown away
                target.execute(f"PRAGMA {pragma}")
            source.backup(target, pages=PAGES, progress=lambda _, left, total: progress(total - left, total))
        with explain(path):
            calls, events = (int(scalar(source, f"SELECT count(*) FROM {table}")) for table in ("call", "event"))
        return Copy(calls, events, part.stat().st_size)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file that appears at `path` complete or not at all: where to write it meanwhile, empty and with mode 0600.

    UsageError when `path` is there already, at the beginning or at the end: nothing is ever overwritten.
    """
    with explain(path):
        part = Path(f"{path}.part")
        for suffix in _BESIDE:  # SQLite would take a -wal that was left of another file for this one's
            if os.path.lexists(f"{path}{suffix}"):
                raise UsageError(f"{path}{suffix} is there already: give the name of a new file")
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            raise UsageError(f"{part} is there: it is being written, or was left when that was cut short") from None
        try:
            yield part
            _sync(part)
            _place(part, path)
        finally:
            for suffix in _BESIDE:
                Path(f"{part}{suffix}").unlink(missing_ok=True)
        _sync(path.parent)


def _place(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise UsageError(f"{path} is there by now: give the name of a new file") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Some file systems have no links. Renaming would overwrite what appears between the look and the act.
        if os.path.lexists(path):
            raise UsageError(f"{path} is there by now: give the name of a new file") from None
        part.rename(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
