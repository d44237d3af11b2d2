"""Reading a ledger: events, samples, points, output, queries of one's own, news. Nothing is ever written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import MIB, Call, uid

from ledger.ledger import Ledger
from ledger.read import PAGE, SETTLE_NS, Reader
from machine import facts
from machine.errors import UsageError
from machine.states import Reason, State
from machine.units import SECOND


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    """A reader of it."""
    with Reader(path) as reader:
        yield reader


class TestRows:
    """Events, samples, points, output."""

    def test_events_are_the_view_with_the_data_as_an_object(self, reader: Reader) -> None:
        events = reader.events(reader.resolve("stopped"), after_seq=1)
        assert [(event["seq"], event["kind"], event["state"]) for event in events] == [
            (2, "cancel-requested", "preparing"),
            (3, "cancelled", "cancelled"),
            (4, "cleaned", "cancelled"),
        ]
        assert events[0]["data"]["comment"] == "not needed"
        assert events[1]["t_seconds"] == 0.125

    def test_samples(self, reader: Reader) -> None:
        call = reader.resolve("ok")
        assert len(reader.samples(call)) == 1000
        assert [row["seq"] for row in reader.samples(call, last=2)] == [999, 1000]
        assert [row["seq"] for row in reader.samples(reader.resolve(uid(1)), last=5)] == [1, 2]

    def test_at_most_240_points_a_metric_and_no_peak_lost(self, reader: Reader) -> None:
        points = [p for p in reader.points(reader.resolve("ok")) if p["metric"] == "mem_usage_bytes"]
        assert len(points) == 240
        assert sum(point["count"] for point in points) == 1000
        assert max(point["max"] for point in points) == 1000 * 1024
        assert {point["uid"] for point in points} == {uid(7)}

    def test_a_short_call_has_a_point_a_sample(self, reader: Reader) -> None:
        points = [p for p in reader.points(reader.resolve(uid(1))) if p["metric"] == "cpu_total_ns"]
        assert [(point["t_seconds"], point["last"]) for point in points] == [
            (1.1, SECOND // 4),
            (2.0, SECOND // 2),
        ]

    def test_highest(self, reader: Reader) -> None:
        highest = reader.highest(reader.resolve("live"))
        assert (highest["mem_usage_bytes"], highest["cpu_total_ns"], highest["pids"]) == (
            5 * MIB,
            5 * SECOND // 4,
            1,
        )
        assert highest["net_rx_bytes"] is None

    def test_output_is_read_page_by_page_and_whole(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            for number in range(3 * PAGE):
                call.write(1, number, bytes((number,)))
        with Reader(ledger) as reader:
            assert b"".join(chunk.data for chunk in reader.output(1)) == bytes(range(3 * PAGE))
            assert [chunk.seq for chunk in reader.output(1, after_seq=3 * PAGE - 1)] == [3 * PAGE]
            assert list(reader.output(1, after_seq=3 * PAGE)) == []


class TestQuery:
    """SQL of one's own."""

    def test_rows_with_values_by_name(self, reader: Reader) -> None:
        names, rows = reader.query("SELECT name, exit_code FROM calls WHERE name = :n", {"n": "three"})
        assert (names, list(rows)) == (["name", "exit_code"], [("three", 3)])

    def test_names_are_known_without_rows_and_are_unique(self, reader: Reader) -> None:
        names, rows = reader.query("SELECT 1 AS a, 2 AS a, 3 AS a_2 WHERE false")
        assert (names, list(rows)) == (["a", "a_3", "a_2"], [])

    def test_text_that_is_none_is_marked_and_shown(self, reader: Reader) -> None:
        _, rows = reader.query("SELECT cast(x'6fff6b' AS TEXT)")
        assert list(rows) == [("o�k",)]

    def test_what_a_query_needs_is_allowed(self, reader: Reader) -> None:
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n"
        assert list(reader.query(sql)[1]) == [(6,)]
        labels = "SELECT key FROM call, json_each(spec, '$.label') WHERE name = 'slow'"
        assert list(reader.query(labels)[1]) == [("team",)]

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM event",
            "INSERT INTO meta VALUES ('a', 'b') RETURNING key",
            "CREATE TABLE t (a)",
            "CREATE TEMP TABLE t (a)",
            "DROP TABLE call",
            "BEGIN IMMEDIATE",
            "ATTACH '{}' AS other",
            "VACUUM INTO '{}'",
            "PRAGMA user_version = 7",
            "PRAGMA wal_checkpoint",
        ],
    )
    def test_whatever_writes_is_refused(self, path: Path, tmp_path: Path, sql: str) -> None:
        before = path.read_bytes()
        with Reader(path) as reader, pytest.raises(UsageError, match=r"^sql: "):
            list(reader.query(sql.format(tmp_path / "other.db"))[1])
        assert list(tmp_path.iterdir()) == []
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("sql", "fault"),
        [
            ("selec", "syntax error"),
            ("SELECT 1; SELECT 2", "one statement at a time"),
            ("SELECT :a", "binding"),
            ("SELECT nosuch FROM calls", "no such column"),
            ("SELECT json('{')", "malformed JSON"),
            ("", "no rows to show"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, reader: Reader, sql: str, fault: str) -> None:
        with pytest.raises(UsageError, match=fault) as raised:
            list(reader.query(sql)[1])
        assert "\n" not in str(raised.value)


class TestNews:
    """Following what others write."""

    def test_the_version_changes_when_somebody_writes(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1)
            with Reader(ledger) as reader:
                before = reader.version()
                assert reader.version() == before
                call.start()
                assert reader.version() != before

    def test_a_call_is_settled_when_it_is_cleaned_up_or_long_over(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            with Reader(ledger, now=lambda: call.at) as reader:
                assert not reader.ended(call.id)
                call.verdict(State.SUCCESS, Reason.EXIT)
                assert (reader.ended(call.id), reader.settled(call.id)) == (True, False)
                call.at += SETTLE_NS + 1
                assert reader.settled(call.id)
                call.note(facts.Cleaned(removed=True))
                call.at -= SETTLE_NS
                assert reader.settled(call.id)
