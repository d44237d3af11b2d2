"""What verify says: the first bad event of each damaged call, what else is wrong, and what was in order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import BY, Call, small, uid
from varied import EMPTIED, LAST, LIVE, PLAIN, THINNED, TWICE, long, varied

from ledger.examine import Finding
from ledger.head import heads
from ledger.ledger import Ledger
from ledger.orphans import identity, orphans
from ledger.retention import EVERYTHING, prune
from ledger.sqlite import connect_reader, connect_writer
from ledger.verify import Report, head_of, verify
from machine import facts
from machine.errors import LedgerError
from machine.states import Reason, State

FREE = "DROP TRIGGER event_no_update; DROP TRIGGER event_no_delete; DROP TRIGGER sample_no_update; "
FREE += "DROP TRIGGER sample_no_delete; DROP TRIGGER log_no_update; DROP TRIGGER log_no_delete; "
FREE += "DROP TRIGGER event_continues; "


def changed(path: Path, script: str) -> list[Finding]:
    """What is found after a change by any other program, beside the triggers that it had to drop."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FREE + script)
    return [finding for finding in verify(path).findings if "trigger" not in finding.what]


@pytest.fixture
def ledger(ledger: Path) -> Path:
    """A call of every kind."""
    varied(ledger)
    return ledger


def counts(report: Report) -> tuple[int, ...]:
    return report.calls, report.events, report.samples, report.output_bytes, report.uncovered


def test_a_whole_ledger_has_no_findings_and_its_counts(ledger: Path) -> None:
    with closing(connect_reader(ledger)) as db:
        events = db.execute("SELECT count(*) FROM event").fetchone()[0]
    report = verify(ledger)
    assert report.findings == []
    # Samples: three of the plain call, one of the live one. Output: twice 17 bytes, and one of the live call.
    assert counts(report) == (7, events, 4, 2 * 17 + 1, 3)


@pytest.mark.parametrize("make", [small, long])
def test_other_ledgers_have_none_either(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "other.db")
    assert verify(tmp_path / "other.db").findings == []


FIRST_BAD = {
    "UPDATE event SET data = '{}' WHERE call_id = 4 AND seq = 3": (
        3,
        "its digest does not hold: the event was changed",
    ),
    "UPDATE event SET at = at + 1 WHERE call_id = 4 AND seq > 1": (
        2,
        "its digest does not hold: the event was changed",
    ),
    "UPDATE sample SET pids = 2 WHERE call_id = 4 AND seq = 1": (
        4,
        "its digest does not hold: the event, or the 4 rows of samples and output that it covers, was changed",
    ),
    "DELETE FROM sample WHERE call_id = 4 AND seq = 1": (4, "it covers 2 rows of samples, of which 1 are there"),
    "DELETE FROM log WHERE call_id = 4 AND seq = 4": (6, "it covers 1 row of output, of which 0 are there"),
    "DELETE FROM event WHERE call_id = 4 AND seq = 3": (3, "it is missing: after event 2 comes 4"),
    "UPDATE event SET state = 4 WHERE call_id = 4 AND seq = 3": (3, "started cannot lead from prepared to paused"),
    "UPDATE event SET kind = 77 WHERE call_id = 4 AND seq = 3": (3, "77 cannot lead from prepared to running"),
    "UPDATE event SET data = '{}' WHERE call_id = 3 AND kind = 22": (
        4,
        "it covers 2 rows of samples, of which 0 are there",
    ),
    "UPDATE event SET data = '{\"a\":1}' WHERE call_id = 2 AND seq = 3": (
        3,
        "it says something, and a tombstone says that it was emptied",
    ),
    "UPDATE event SET at = at + 1 WHERE call_id = 2 AND seq = 3": (
        7,
        "the emptied events before it are not those that it names",
    ),
    "INSERT INTO sample (call_id, seq, at) VALUES (3, 2, 1)": (
        4,
        "samples that it covers are there, and a tombstone says that they were removed",
    ),
}


@pytest.mark.parametrize("change", FIRST_BAD)
def test_the_first_bad_event_of_a_damaged_call_is_named(ledger: Path, change: str) -> None:
    seq, what = FIRST_BAD[change]
    findings = [finding for finding in changed(ledger, change) if finding.call is not None]
    number = int(change.partition("call_id = ")[2][:1] or 3)
    assert findings == [Finding(uid(number), seq, what)]


def test_each_damaged_call_is_named_and_the_others_are_counted(ledger: Path) -> None:
    before = verify(ledger)
    found = changed(ledger, "UPDATE event SET data = '{}' WHERE kind = 0 AND call_id IN (4, 5)")
    assert [(finding.call, finding.seq) for finding in found] == [(uid(PLAIN), 1), (uid(LIVE), 1)]
    assert verify(ledger).calls == before.calls - 2


WRONG = {
    "UPDATE call SET exit_code = 0, oom = NULL WHERE id = 4": "call.exit_code is 0, its events say 137 (and oom)",
    "DELETE FROM call WHERE id = 4": "it has events and no row in call",
    "UPDATE call SET evidence = hex(zeroblob(99)) WHERE id = 4": f"call.evidence is '{'0' * 59}…, its events say "
    '\'{"exits":{"die":137}}\'',
    "INSERT INTO sample (call_id, seq, at) VALUES (4, 4, 1)": "1 row of sample, "
    "from number 4 on, came after its last event",
    "INSERT INTO histogram VALUES (4, 1, 0, 1, 1, 1, 1, 1, 1, 1)": "its histogram is not that of its samples: 1 rows, "
    "0 expected; the first that differs: metric 1, bucket 0",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_does_not_follow_from_the_log_is_named(ledger: Path, change: str) -> None:
    assert changed(ledger, change) == [Finding(uid(PLAIN), None, WRONG[change])]


def test_rows_of_no_call_are_named(ledger: Path) -> None:
    found = changed(
        ledger,
        "INSERT INTO sample (call_id, seq, at) VALUES (-7, 1, 1), (-7, 2, 1);"
        "INSERT INTO log VALUES (99, 1, 1, 1, 0, x'00');"
        "INSERT INTO histogram VALUES (99, 1, 0, 1, 1, 1, 1, 1, 1, 1);"
        "INSERT INTO call (id, uid, driver, runner, state, created_at, entered_at, events, samples, chunks, spec) "
        "VALUES (99, 'u', '', '', '', 1, 1, 1, 0, 0, '')",
    )
    assert found == [
        Finding(None, None, "call -7 has no events, and 2 rows of sample"),
        Finding("u", None, "call 99 has no events, and a row in call"),
        Finding("u", None, "call 99 has no events, and 1 row of log"),
        Finding("u", None, "call 99 has no events, and 1 row of histogram"),
    ]


def test_missing_numbers_of_events_are_named(ledger: Path) -> None:
    found = changed(ledger, "DELETE FROM event WHERE call_id = 6; DELETE FROM call WHERE id = 6")
    assert len(found) == 1
    assert found[0].what.startswith("events were removed or renumbered: after id ")


def test_only_the_calls_that_are_asked_for_are_looked_at(ledger: Path) -> None:
    changed(ledger, "UPDATE event SET data = '{}' WHERE seq = 3 AND call_id IN (4, 5)")
    report = verify(ledger, only=[LAST, PLAIN])
    assert [finding.call for finding in report.findings if finding.call] == [uid(PLAIN)]
    assert (report.calls, report.head) == (1, None)
    assert [finding.what for finding in report.findings if not finding.call] == [
        f"the trigger {name} is missing"
        for name in (
            "event_continues",
            "event_no_update",
            "event_no_delete",
            "sample_no_update",
            "sample_no_delete",
            "log_no_update",
            "log_no_delete",
        )
    ]


def test_a_ledger_is_seen_at_one_moment_while_others_write(ledger: Path) -> None:
    with Ledger(ledger) as writing:
        more = (Call(writing, number).start() for number in range(20, 30))
        report = verify(ledger, progress=lambda *_: next(more, None) and None)
        assert report.findings == []
        assert (report.calls, verify(ledger).calls) == (7, 14)


# Damage to the file.


def pages(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as db:
        return tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))  # type: ignore[return-value]


def test_a_damaged_page_costs_its_own_calls_and_the_others_are_still_checked(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    with Ledger(path) as ledger:
        for number in range(200):
            call = Call(ledger, number, spec="x" * 300).start()
            call.write(1, 0, bytes(500)).end(State.SUCCESS, Reason.EXIT, exit_code=0)
    whole, (size, count) = path.read_bytes(), pages(path)
    outcomes = set()
    for number in range(1, count):
        path.write_bytes(whole[: number * size] + b"\xff" * size + whole[(number + 1) * size :])
        try:
            report = verify(path)
        except LedgerError:  # the schema's own pages
            outcomes.add(-1)
        else:
            outcomes.add(report.calls)
            assert report.findings or report.calls == 200  # a free page
    assert len(outcomes) > 5
    assert max(outcomes - {200}) >= 190


@pytest.mark.parametrize("missing", [1, 2, 5, 10])
def test_of_a_file_without_its_end_it_is_said_what_is_still_good(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "many.db"
    with Ledger(path) as ledger:
        for number in range(200):
            Call(ledger, number, spec="x" * 300).start().end(State.SUCCESS, Reason.EXIT, exit_code=0)
    size, count = pages(path)
    path.write_bytes(path.read_bytes()[: (count - missing) * size])
    report = verify(path)
    assert report.findings
    assert 100 < report.calls < 200


@pytest.mark.parametrize("left", [1, 2, 5, 10])
def test_of_little_of_a_file_it_is_said_that_nothing_can_be_read(tmp_path: Path, left: int) -> None:
    path = tmp_path / "small.db"
    small(path)
    path.write_bytes(path.read_bytes()[: left * pages(path)[0]])
    report = verify(path)
    assert report.findings
    assert (report.calls, report.head) == (0, None)


# The head.


def test_the_head_is_that_of_the_recipe(ledger: Path) -> None:
    from hashlib import sha256

    with closing(sqlite3.connect(ledger)) as db:
        head = sha256(db.execute("SELECT value FROM meta WHERE key = 'ledger'").fetchone()[0].encode()).digest()
        for (digest,) in db.execute("SELECT digest FROM event ORDER BY id"):
            head = sha256(head + digest).digest()
    assert verify(ledger).head == head_of(ledger) == head.hex()


def test_a_ledger_extends_each_of_its_former_selves_and_no_other(ledger: Path) -> None:
    with closing(connect_reader(ledger)) as db:
        former = list(heads(db))
    assert [verify(ledger, against=head).then for head in former[::9]] == list(range(0, len(former), 9))
    assert verify(ledger, against=bytes(32)).then is None
    last = bytes.fromhex(head_of(ledger))
    changed(ledger, f"DELETE FROM event WHERE call_id = {LAST}; DELETE FROM call WHERE id = {LAST}")
    report = verify(ledger, against=last)
    assert (report.then, [finding for finding in report.findings if "trigger" not in finding.what]) == (None, [])


def test_appending_and_pruning_keep_the_head_in_the_chain(ledger: Path) -> None:
    then, head = verify(ledger).events, bytes.fromhex(head_of(ledger))
    with Ledger(ledger) as writing:
        Call(writing, 20).start().end(State.ERROR, Reason.LOST)
    with closing(connect_writer(ledger)) as db:
        assert list(prune(db, 2**62, EVERYTHING, BY))[-1].removed.calls == 5
    report = verify(ledger, against=head)
    assert (report.then, report.findings) == (then, [])
    assert report.events == then + 5 + 5


@given(st.data())
def test_a_head_is_lost_with_any_event_before_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("head") / "ledger.db"
    with Ledger(path) as ledger:
        for number in range(3):
            Call(ledger, number).note(facts.CancelRequested(by=BY))
    with closing(connect_reader(path)) as db:
        former = list(heads(db))
    gone = data.draw(st.integers(1, 6))
    changed(path, f"DELETE FROM event WHERE id = {gone}")
    for number, head in enumerate(former):
        assert (verify(path, against=head).then is not None) == (number < gone)


# Containers.


def test_orphans_are_containers_of_calls_that_are_unknown_or_settled_and_not_kept(ledger: Path) -> None:
    with Ledger(ledger) as writing:
        kept = Call(writing, 20, keep=True).start().end(State.SUCCESS, Reason.EXIT, removed=False, exit_code=0)
    asked = [uid(PLAIN), uid(LIVE), kept.uid, uid(THINNED), uid(EMPTIED), uid(TWICE), "unknown"]
    assert orphans(ledger, asked) == [uid(PLAIN), uid(THINNED), "unknown"]


def test_a_ledger_without_an_id_has_no_containers(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as db:
        assert db.execute("SELECT value FROM meta").fetchall() == [(identity(ledger),)]
    changed(ledger, "DELETE FROM meta")
    with pytest.raises(LedgerError, match="has no id"):
        identity(ledger)
