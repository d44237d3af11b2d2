"""A ledger of many kinds of calls to be damaged, and what must hold of whatever salvage makes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ledgers import BY, START, Call
from tombstones import wrong

from ledger import retention
from ledger.ledger import Ledger
from ledger.pages import Pages
from ledger.pieces import _SHAPES
from ledger.salvage import Salvaged, salvage
from ledger.sqlite import connect_reader, connect_writer
from ledger.verify import verify
from machine import facts
from machine.errors import NothingSavedError
from machine.states import Reason, State

LOG = {
    "event": "SELECT * FROM event ORDER BY call_id, seq",
    "sample": "SELECT * FROM sample ORDER BY call_id, seq",
    "log": "SELECT call_id, seq, at, stream, offset_bytes, data FROM log ORDER BY call_id, seq",
}
WHOLE = LOG | {
    "call": "SELECT * FROM call ORDER BY id",
    "histogram": "SELECT * FROM histogram ORDER BY call_id, metric, bucket",
    "meta": "SELECT * FROM meta",
}
LIVE = 12
"""The call of `various` that goes on, and has rows that no event covers yet."""


class Saved(NamedTuple):
    """What salvage made of a file: its report (None: it refused, and made none) and all rows by call."""

    report: Salvaged | None
    rows: dict[str, dict[int, list[Any]]]


def various(path: Path) -> None:
    """Twelve calls of many kinds, on pages of every kind; nothing is in the WAL."""
    with Ledger(path) as ledger:
        Call(ledger, 1, "quiet").start().sample(1, 1).sample(2, 1).end(State.SUCCESS, Reason.EXIT, exit_code=0)
        Call(ledger, 2, "gone").start().sample(1, 1).write(1, 0, b"gone").end(State.ERROR, Reason.EXIT, exit_code=1)
    with closing(connect_writer(path)) as connection, retention.transaction(connection, "prune"):
        for call, parts in ((1, {"samples"}), (2, retention.EVERYTHING)):
            assert isinstance(retention._prune(connection, call, frozenset(parts), BY), retention.Amount)
    with Ledger(path) as ledger:
        wordy = Call(ledger, 3, "wordy", command=["echo", "word " * 2000]).start()  # longer than a page
        wordy.write(1, 0, b"x" * 20_000).later(1).write(2, 0, b"\xff\x00").sample(1, 2)
        wordy.end(State.ERROR, Reason.EXIT, exit_code=3, message="so " * 500)
        for number in range(4, LIVE):
            short = Call(ledger, number).start().later(1).sample(number, number).write(1, 0, b"out\n")
            short.note(facts.Gap(of="samples", since=START, until=START + number, why="test"))
            short.end(State.KILLED, Reason.OOM, exit_code=137, signal="KILL", oom="likely")
        Call(ledger, LIVE, "live").start().sample(1, 1).note(facts.Paused()).sample(2, 2).write(1, 0, b"not covered")


def content(path: Path, tables: dict[str, str] = WHOLE) -> dict[str, dict[int, list[Any]]]:
    """All rows, by table and call."""
    with closing(connect_reader(path)) as connection:
        found: dict[str, dict[int, list[Any]]] = {}
        for table, statement in tables.items():
            rows = defaultdict(list)
            for row in connection.execute(statement):
                rows[row[1] if table == "event" else row[0]].append(row)
            found[table] = dict(rows)
        return found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that no test changes."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    various(path)
    assert not Path(f"{path}-wal").exists()
    return path


@pytest.fixture(scope="module")
def before(original: Path) -> dict[str, dict[int, list[Any]]]:
    """Its rows."""
    return content(original)


def save(path: Path) -> Saved:
    """Salvage `path`; whatever comes of it is a ledger that holds, or nothing at all."""
    new = path.parent / "new.db"
    files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    try:
        report = salvage(path, new)
    except NothingSavedError:
        report = None
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if file != new}
    assert after == files
    assert new.exists() == (report is not None)
    if report is None:
        return Saved(None, {table: {} for table in WHOLE})
    try:
        with closing(connect_reader(new)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [
            finding for finding in wrong(new) if not finding.endswith("its histogram is not the one that was named")
        ]
        assert found == []
        for finding in verify(new).findings:
            # What is lost leaves gaps in the ids: that is not for salvage to hide.
            assert finding.what.startswith(("events were removed or renumbered", "its histogram is not the one that"))
        return Saved(report, content(new))
    finally:
        for file in path.parent.glob("new.db*"):
            file.unlink()


def a_prefix(saved: Saved, before: dict[str, dict[int, list[Any]]], *, told: bool = True) -> set[int]:
    """Nothing was made up: each call is a prefix of what it was; -> those that are not all of it."""
    short = set()
    for call in before["call"]:
        for table in LOG:
            kept, were = saved.rows[table].get(call, []), before[table].get(call, [])
            if call == LIVE:  # what no event covers yet is taken as it stands
                kept = kept[:1] if table != "event" else kept
            assert kept == were[: len(kept)], (table, call)
        if any(saved.rows[table].get(call) != before[table].get(call) for table in WHOLE):
            short.add(call)
    if saved.report is not None and told:
        # Of rows that no event covers nobody can say that they are missing.
        assert short <= {lost.number for lost in saved.report.lost} | {LIVE}
    return short


def places(path: Path) -> list[set[int]]:
    """By page: the calls of which it holds rows."""
    with Pages(path) as pages:
        return [
            {row[0 if name != "event" else 1] for found in page for name, row in _shaped(found)}
            for page in pages.rows()
        ]


def _shaped(found: Any) -> Iterator[tuple[str, Any]]:
    name, shape = _SHAPES.get(len(found.values), ("", lambda _: None))
    if row := shape(found):
        yield name, row


def damaged(folder: Path, data: bytes) -> Path:
    """The file with other content."""
    path = folder / "damaged.db"
    path.write_bytes(data)
    return path
