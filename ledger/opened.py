"""A ledger that is open for reading."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from ledger.sqlite import connect_reader, suspect


class Opened:
    """A ledger, opened for reading only. A context manager; for one thread."""

    def __init__(self, path: Path) -> None:
        """LedgerError when there is no ledger at `path`."""
        self.path = path
        self._connection = connect_reader(path)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. LedgerError in place of an error that nobody expected, where the file is to blame for it."""
        try:
            suspect(self._connection, self.path, error)
        finally:
            self._connection.close()
