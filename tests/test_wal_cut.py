"""Power fails: whatever of the WAL is on disk then, what opens is a legal beginning with all that was acknowledged.

SQLite reads a WAL up to the last commit whose frames are all there and right, and says in its index (FILE-shm) how
many that are. What a reader sees depends on nothing else, so cuts are compared by that number, and what a number
means is looked at once.
"""

from __future__ import annotations

import os
import struct
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from invariants import invariants
from ledgers import START, Call
from running import until

from ledger.ledger import Ledger
from ledger.sqlite import connect_reader, sqlite3
from machine import facts
from machine.errors import LedgerError
from machine.states import Reason, State

PAGE = 512
"""The smallest: a cut at every byte is to take no longer than it must."""
HEADER, FRAME = 32, 24 + PAGE
COUNT = 16
"""Where FILE-shm says how many frames count."""
CALLS, EVENTS = 25, 8
PIECE = 2
EXITS = {"exits": {"inspect": 0}, "started_at": START}


class Cut(NamedTuple):
    """A ledger as it lay on disk: the file, its WAL, and how long that was (in bytes) when which event was durable."""

    db: bytes
    wal: bytes
    acknowledged: list[tuple[int, int]]
    commits: list[int]
    """The numbers of the frames that end a commit: they say how large the file is afterwards."""

    def frames(self, length: int) -> int:
        """How many frames count when the WAL is cut to a length: those up to the last whole commit."""
        whole = bisect_right(self.commits, (length - HEADER) // FRAME)
        return self.commits[whole - 1] if whole else 0

    def promised(self, length: int) -> int:
        """The highest event that was durable when the WAL was no longer than this."""
        return max((event for size, event in self.acknowledged if size <= length), default=0)


def commits(wal: bytes) -> list[int]:
    sizes = (struct.unpack_from(">I", wal, at + 4)[0] for at in range(HEADER, len(wal), FRAME))
    return [number for number, size in enumerate(sizes, 1) if size]


def record(path: Path, piece: int) -> list[Cut]:
    """Write 200 events, each a commit; the WAL begins anew after every `piece` of them."""
    with closing(sqlite3.connect(path)) as fresh:
        fresh.execute(f"PRAGMA page_size = {PAGE}")
        fresh.execute("PRAGMA journal_mode = WAL")
    wal, cuts, acknowledged = Path(f"{path}-wal"), [], []
    db = path.read_bytes()
    with Ledger(path) as ledger, closing(sqlite3.connect(path)) as other:  # the ledger's own is its thread's
        until(lambda: quiet(ledger), "the thread to leave its connection alone for a moment")
        for event in chain.from_iterable(conducted(ledger, number) for number in range(CALLS)):
            acknowledged.append((wal.stat().st_size, event))
            if event % piece == 0:
                cuts.append(Cut(db, content := wal.read_bytes(), acknowledged, commits(content)))
                assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
                db, acknowledged = path.read_bytes(), [(0, acknowledged[-1][1])]
    return cuts


def quiet(ledger: Ledger) -> bool:
    """Whether nothing is copied back from the WAL unless we ask for it, from now on."""
    with suppress(sqlite3.DatabaseError):
        return list(ledger._writer._connection.execute("PRAGMA wal_autocheckpoint = 0")) == [(0,)]
    return False


def conducted(ledger: Ledger, number: int) -> Iterator[int]:
    """The events of one call; -> their ids, each when it is durable."""
    call = Call(ledger, number)
    yield number * EVENTS + 1
    for step, fact in enumerate(
        (
            facts.Prepared(container="c" * 64),
            facts.Started(engine_at=START, pid=42),
            facts.Gap(of="events", since=START, until=START, why="a test"),
            facts.Paused(),
            facts.Resumed(),
        )
    ):
        call.later(1).note(fact)
        yield number * EVENTS + 2 + step
    call.verdict(State.SUCCESS, Reason.EXIT, exit_code=0, evidence=EXITS)
    yield number * EVENTS + 7
    call.note(facts.Cleaned(removed=True))
    yield number * EVENTS + 8


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def whole(place: Path) -> Cut:
    """All 200 events in one WAL, and nothing in the file itself."""
    (cut,) = record(place / "whole.db", CALLS * EVENTS)
    assert len(cut.db) == PAGE
    assert len(cut.acknowledged) == CALLS * EVENTS == 200
    return cut


@contextmanager
def lying(place: Path, cut: Cut) -> Iterator[Path]:
    """The ledger as it lies on disk after the cut."""
    path = place / "cut.db"
    path.write_bytes(cut.db)
    Path(f"{path}-wal").write_bytes(cut.wal)
    try:
        yield path
    finally:
        for file in place.glob("cut.db*"):
            file.unlink()


@contextmanager
def recovering(path: Path) -> Iterator[Callable[[int], int]]:
    """Cuts the WAL to a length; -> how many frames SQLite then makes out. Longest first: what is cut off is gone."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA user_version").fetchone()
        wal, index = os.open(f"{path}-wal", os.O_RDWR), os.open(f"{path}-shm", os.O_RDWR)

        def cut(length: int) -> int:
            os.ftruncate(wal, length)
            os.pwrite(index, bytes(96), 0)  # else it is believed, and the WAL is not read again
            connection.execute("PRAGMA user_version").fetchone()
            return int(struct.unpack("=I", os.pread(index, 4, COUNT))[0])

        yield cut
        os.close(wal)
        os.close(index)


def events(path: Path) -> int:
    """How many events there are: gap-free, or the answer is wrong. 0 where there is no ledger yet."""
    try:
        with closing(connect_reader(path)) as connection:
            count, last = connection.execute("SELECT count(*), coalesce(max(id), 0) FROM event").fetchone()
    except LedgerError as error:
        if str(error).endswith("is empty: no call was recorded in it yet"):
            return 0
        raise
    assert count == last
    assert invariants(path) == -(-last // EVENTS)
    return int(last)


def test_the_wal_cut_at_every_byte_counts_up_to_the_last_whole_commit(place: Path) -> None:
    """In pieces: all that is left is read again for every byte, which with one long WAL takes a quarter of an hour."""
    bytes_cut = 0
    for cut in record(place / "pieces.db", PIECE):
        with lying(place, cut) as path, recovering(path) as recover:
            for length in range(len(cut.wal), -1, -1):
                assert recover(length) == cut.frames(length), length
            bytes_cut += len(cut.wal)
    assert bytes_cut > CALLS * EVENTS * FRAME


def test_one_long_wal_cut_in_every_frame_counts_up_to_the_last_whole_commit(place: Path, whole: Cut) -> None:
    boundaries = range(HEADER, len(whole.wal) + 1, FRAME)
    inside = (-1, 0, 1, FRAME // 2)
    lengths = sorted({b + more for b in boundaries for more in inside if 0 <= b + more <= len(whole.wal)})
    with lying(place, whole) as path, recovering(path) as recover:
        for length in reversed(lengths):
            assert recover(length) == whole.frames(length), length


def test_what_opens_after_any_cut_is_legal_and_holds_what_was_acknowledged(place: Path, whole: Cut) -> None:
    """Once for every commit, and a byte before and after its end."""
    commits = sorted({size for size, _ in whole.acknowledged})
    assert len(commits) == 200
    for length in [HEADER, *(size + more for size in commits for more in (-1, 0, 1))]:
        with lying(place, whole._replace(wal=whole.wal[:length])) as path:
            found = events(path)
        assert found >= whole.promised(length), length


@pytest.mark.parametrize("harm", ["zeroed", "flipped", "dropped", "swapped", "old"])
def test_a_frame_that_was_not_synced_ends_what_is_read(place: Path, whole: Cut, harm: str) -> None:
    """Later frames may be on disk when earlier ones are not: they do not count."""
    for number in range(1, len(whole.wal) // FRAME, 13):
        wal = bytearray(whole.wal)
        at, following = HEADER + (number - 1) * FRAME, HEADER + number * FRAME
        if harm == "zeroed":
            wal[at:following] = bytes(FRAME)
        elif harm == "flipped":
            wal[at + number % FRAME] ^= 1 << number % 8
        elif harm == "dropped":
            del wal[at:following]
        elif harm == "swapped":
            wal[at : following + FRAME] = wal[following : following + FRAME] + wal[at:following]
        else:  # what stood there before the WAL began anew
            wal[at + 8 : at + 16] = bytes(8)
        with lying(place, whole._replace(wal=bytes(wal))) as path:
            found = events(path)
        assert found == whole.promised(at), number
