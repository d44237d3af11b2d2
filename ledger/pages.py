"""The rows of a SQLite file that SQLite itself cannot read any more: page by page, without schema and indexes.

Each page says of what kind it is and where its rows are, so that a bad page costs its own rows and no others. What is
found need not be true: a row may be an old one, or damaged. Format: sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from types import TracebackType
from typing import Any, NamedTuple, Self

MAGIC = b"SQLite format 3\0"
PAGE = 4096
"""The size of the pages of a ledger, where the file does not say."""
_SIZES = [1 << power for power in range(9, 17)]
_LEAF, _INDEX, _INTERIOR = 13, 10, 2
"""The kinds of page that hold rows: of tables; of tables WITHOUT ROWID and indexes, which have them further up, too."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_WAL_HEADER, _FRAME_HEADER = 32, 24
_NOT_A_ROW = (ArithmeticError, LookupError, ValueError)


class Found(NamedTuple):
    """A row as it stands on its page. `rowid`: None in a table WITHOUT ROWID, and in an index."""

    rowid: int | None
    values: tuple[Any, ...]


class Header(NamedTuple):
    """The beginning of a file. `pages`: how many there ought to be, 0 where it does not say."""

    valid: bool
    application: int
    version: int
    pages: int


class Pages:
    """A file and its WAL, read as bytes and never opened by SQLite. A context manager."""

    def __init__(self, path: Path) -> None:
        """OSError when it cannot be read."""
        self._file = os.open(path, os.O_RDONLY)
        self._length = os.fstat(self._file).st_size
        wal = Path(f"{path}-wal")
        self._wal = wal.read_bytes() if wal.exists() else b""
        given = int.from_bytes(os.pread(self._file, 2, 16), "big")
        given = 65536 if given == 1 else given
        self.sizes = sorted({PAGE, given if given in _SIZES else PAGE})  # what it says may be the damage
        self._frames = {size: _frames(self._wal, size) for size in self.sizes}
        self._latest = {size: dict(frames) for size, frames in self._frames.items()}

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        os.close(self._file)

    def header(self) -> Header:
        """Of the latest first page."""
        first = self._page(1, PAGE)
        if len(first) < 100:
            return Header(valid=False, application=0, version=0, pages=0)
        counter, pages, version, application, valid_for = (
            unpack_from(">I", first, at)[0] for at in (24, 28, 60, 68, 92)
        )
        return Header(first.startswith(MAGIC), application, version, pages if counter == valid_for else 0)

    def missing(self) -> int:
        """How many pages the file lacks that it ought to have."""
        header, latest = self.header(), self._latest[PAGE]
        if not header.valid or len(self.sizes) > 1:
            return 0
        present = self._length // PAGE
        return sum(1 for number in range(present + 1, header.pages + 1) if number not in latest)

    def rows(self) -> Iterator[list[Found]]:
        """The rows of every page, a list a page: of the file, and of every change that the WAL committed to it."""
        for size in self.sizes:
            for at in range(0, self._length, size):
                yield self._rows(os.pread(self._file, size, at), size, first=at == 0)
            for number, at in self._frames[size]:
                yield self._rows(self._wal[at : at + size], size, first=number == 1)

    def __len__(self) -> int:
        """How many lists `rows` gives."""
        return sum(-(-self._length // size) + len(self._frames[size]) for size in self.sizes)

    def _page(self, number: int, size: int) -> bytes:
        if (at := self._latest[size].get(number)) is not None:
            return self._wal[at : at + size]
        return os.pread(self._file, size, (number - 1) * size) if number else b""

    def _rows(self, page: bytes, size: int, *, first: bool) -> list[Found]:
        at = 100 if first else 0
        if len(page) < at + 12 or page[at] not in (_LEAF, _INDEX, _INTERIOR):
            return []
        kind, (cells,) = page[at], unpack_from(">H", page, at + 3)
        begin = at + (12 if kind == _INTERIOR else 8)
        found = []
        for pointer in range(begin, min(begin + 2 * cells, len(page) - 1), 2):
            try:
                found.append(self._cell(page, unpack_from(">H", page, pointer)[0], kind, size))
            except _NOT_A_ROW:
                continue
        return found

    def _cell(self, page: bytes, at: int, kind: int, size: int) -> Found:
        length, at = _varint(page, at + 4 if kind == _INTERIOR else at)
        rowid = None
        if kind == _LEAF:
            rowid, at = _varint(page, at)
            rowid -= (rowid >> 63) << 64
        most = size - 35 if kind == _LEAF else (size - 12) * 64 // 255 - 23
        if length <= most:
            return Found(rowid, _record(page[at : at + length]))
        least = (size - 12) * 32 // 255 - 23
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
        (rest,) = unpack_from(">I", page[at + local : at + local + 4].ljust(4, b"\0"))
        return Found(rowid, _record(page[at : at + local] + self._overflow(rest, length - local, size)))

    def _overflow(self, number: int, length: int, size: int) -> bytes:
        if length > self._length + len(self._wal):
            raise ValueError
        parts = []
        while length > 0:
            page = self._page(number, size)
            number = int.from_bytes(page[:4], "big")
            part = page[4 : 4 + length]
            if not part:
                raise ValueError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _frames(wal: bytes, size: int) -> list[tuple[int, int]]:
    """The pages that were committed to a WAL, oldest first: (number, where it stands).

    The salt tells them from those of an earlier WAL in the same file. Checksums are not asked: a frame that is
    damaged costs its own page, not all that come after it.
    """
    step = _FRAME_HEADER + size
    frames: defaultdict[bytes, list[tuple[int, int, int]]] = defaultdict(list)
    for at in range(_WAL_HEADER, len(wal) - step + 1, step):
        number, commit = unpack_from(">II", wal, at)
        frames[wal[at + 8 : at + 16]].append((number, commit, at + _FRAME_HEADER))
    salt = wal[16:24]
    if salt not in frames:
        salt = wal[_WAL_HEADER + 8 : _WAL_HEADER + 16]
    written = frames[salt]
    committed = max((place for place, (_, commit, _) in enumerate(written, 1) if commit), default=0)
    return [(number, at) for number, _, at in written[:committed]]


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """-> the number, and where it ends."""
    value = page[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for place in range(at + 1, at + 8):
        byte = page[place]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9


def _record(payload: bytes) -> tuple[Any, ...]:
    """The values of a row. ValueError, LookupError when it is none."""
    end, at = _varint(payload, 0)
    types, values = [], []
    while at < end:
        code, at = _varint(payload, at)
        types.append(code)
    for code in types:
        value, at = _value(payload, code, at)
        values.append(value)
    if at != len(payload):
        raise ValueError
    return tuple(values)


def _value(payload: bytes, code: int, at: int) -> tuple[Any, int]:
    if code >= 12:
        end = at + (code - 12) // 2
        value = payload[at:end]
        return (value.decode() if code % 2 else value), end
    if code in _INTEGERS:
        end = at + _INTEGERS[code]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if code == 7:
        return unpack_from(">d", payload[at : at + 8].ljust(8, b"\0"))[0], at + 8
    return {0: None, 8: 0, 9: 1}[code], at
