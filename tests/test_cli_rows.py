"""`calls events`, `calls stats` and `calls sql` as a user meets them: exact output, exit status."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest
from ledgers import COMMAND, MIB, Call, Said, uid

from ledger.ledger import Ledger
from machine.states import Reason, State


class TestEvents:
    """`calls events`."""

    def test_a_table(self, said: Said) -> None:
        assert said("events", "stopped") == (
            0,
            """\
SEQ        T+  EVENT             STATE        DATA
  1     0.000  submitted         preparing    name=stopped image=busybox:1 driver=docker command=["true"] runner=host:1
  2     0.000  cancel-requested  preparing    by=user@host:2 via=cli comment="not needed"
  3     0.125  cancelled         cancelled    reason=user never_ran=true
  4     0.135  cleaned           cancelled
""",
            "",
        )

    def test_rows_are_those_of_the_view(self, said: Said) -> None:
        rows = json.loads(said("events", "oom", "--json")[1])
        assert [row["kind"] for row in rows] == [
            "submitted",
            "prepared",
            "started",
            "oom-seen",
            "killed",
            "cleaned",
        ]
        assert list(rows[0]) == ["id", "call_id", "uid", "seq", "at", "t_seconds", "kind", "state", "data"]
        assert rows[3]["data"] == {"source": "event"}

    @pytest.mark.parametrize("form", [(), ("--nl",)])
    def test_follow_until_the_end(self, ledger: Path, form: tuple[str, ...]) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            with subprocess.Popen(
                [*COMMAND, "events", "-f", "@last", *form], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                head = [process.stdout.readline() for _ in range(3 if form else 4)]
                call.end(State.SUCCESS, Reason.EXIT, exit_code=0)
                rest = process.stdout.read().splitlines()
        assert "started" in head[-1]
        assert ["succeeded" in rest[0], "cleaned" in rest[1], len(rest)] == [True, True, 2]
        assert form or rest[0].index("succeeded") == head[-1].index("started")  # one below the other
        assert process.returncode == 0


class TestStats:
    """`calls stats`."""

    def test_a_summary_and_the_samples(self, said: Said) -> None:
        assert said("stats", uid(1)) == (
            0,
            """\
call     000000000001  ok
state    success/exit
cpu      0.50s, 33.3 % of one core
memory   4.0MiB at most
samples  2

   T+    CPU  MEMORY    PEAK  PIDS
1.100  0.25s  3.0MiB  4.0MiB     1
2.000  0.50s  2.0MiB  4.0MiB     1
""",
            "",
        )

    def test_many_samples_are_shown_as_points(self, said: Said) -> None:
        lines = said("stats", "ok")[1].splitlines()
        assert lines[:5] == [
            "call     000000000007  ok",
            "state    success/exit",
            "cpu      10.0s, 33.3 % of one core",
            "memory   1000.0KiB at most",
            "samples  1000",
        ]
        assert lines[6].split() == ["T+", "SAMPLES", "CPU", "MEMORY", "MEAN", "MAX", "PIDS"]
        assert len(lines) == 7 + 240

    def test_rows_are_those_of_the_views(self, said: Said) -> None:
        samples = list(csv.DictReader(io.StringIO(said("stats", "ok", uid(1), "--csv")[1])))
        assert [len(samples), samples[0]["uid"], samples[-1]["uid"]] == [1002, uid(7), uid(1)]
        assert (samples[-1]["mem_usage_bytes"], samples[-1]["cpu_total_pct"]) == (str(2 * MIB), "")
        points = json.loads(said("stats", "ok", "--points", "--json")[1])
        assert {point["metric"] for point in points} == {"cpu_total_ns", "mem_usage_bytes", "pids"}
        assert len(points) == 3 * 240

    def test_no_samples(self, said: Said) -> None:
        assert said("stats", "three")[1] == "call     000000000002  three\nstate    error/exit\nsamples  0\n"
        assert said("stats", "three", "--json")[1] == "[]\n"


class TestSql:
    """`calls sql`."""

    QUERY = (
        "SELECT state, count(*) AS n, max(exit_code) AS code FROM calls "
        "WHERE state IN ('killed', 'cancelled') GROUP BY 1"
    )

    def test_forms(self, said: Said) -> None:
        assert said("sql", self.QUERY) == (0, "state      n  code\ncancelled  1\nkilled     1   137\n", "")
        assert said("sql", self.QUERY, "--csv") == (0, "state,n,code\ncancelled,1,\nkilled,1,137\n", "")
        assert said("sql", self.QUERY, "--tsv") == (0, "state\tn\tcode\ncancelled\t1\t\nkilled\t1\t137\n", "")
        objects = ['{"state": "cancelled", "n": 1, "code": null}', '{"state": "killed", "n": 1, "code": 137}']
        assert said("sql", self.QUERY, "--nl") == (0, "\n".join(objects) + "\n", "")
        assert said("sql", self.QUERY, "--json") == (0, "[" + ",\n ".join(objects) + "]\n", "")

    def test_values(self, said: Said) -> None:
        arguments = (
            "SELECT name FROM calls WHERE name = :n AND exit_code = :c",
            "-p",
            "n",
            "three",
            "-p",
            "c",
            "3",
        )
        assert said("sql", *arguments, "--csv") == (0, "name\nthree\n", "")

    def test_a_csv_without_rows_has_its_header(self, said: Said) -> None:
        assert said("sql", "SELECT 1 AS a, 2 AS b WHERE false", "--csv") == (0, "a,b\n", "")

    def test_bytes(self, said: Said) -> None:
        query = "SELECT x'c3a9' AS text, x'ff' AS raw"
        assert said("sql", query, "--nl")[1] == '{"text": "é", "raw": {"$base64": true, "encoded": "/w=="}}\n'
        assert said("sql", query, "--tsv")[1] == 'text\traw\né\t"{""$base64"": true, ""encoded"": ""/w==""}"\n'

    @pytest.mark.parametrize(
        "query",
        [
            "DELETE FROM event",
            "DROP TABLE call",
            "ATTACH 'x.db' AS x",
            "PRAGMA journal_mode = delete",
            "PRAGMA query_only = 0",
        ],
    )
    def test_writing_is_refused(self, said: Said, query: str) -> None:
        assert said("sql", query) == (2, "", "calls: sql: a ledger is only read here\n")

    @pytest.mark.parametrize("query", ["PRAGMA TABLE_INFO(event)", "SELECT name FROM pragma_table_info('event')"])
    def test_the_schema_can_be_asked_for(self, said: Said, query: str) -> None:
        status, out, _ = said("sql", query, "--nl")
        assert (status, json.loads(out.splitlines()[0])["name"]) == (0, "id")

    @pytest.mark.parametrize(("form", "delimiter"), [("--csv", ","), ("--tsv", "\t")])
    def test_separated_values_come_back_as_they_were(self, said: Said, form: str, delimiter: str) -> None:
        values = ["a\rb", "a\nb", "a\r\n", 'a"b', "a\tb", " a,b ", ""]
        query = "SELECT " + ", ".join(f"'{value}' AS c{number}" for number, value in enumerate(values))
        header, row = csv.reader(io.StringIO(said("sql", query, form)[1], newline=""), delimiter=delimiter)
        assert (len(header), row) == (len(values), values)

    def test_a_number_that_json_does_not_have(self, said: Said) -> None:
        assert (
            said("sql", "SELECT 1e999 AS a, -1e999 AS b, 1.5 AS c", "--nl")[1] == '{"a": null, "b": null, "c": 1.5}\n'
        )
        assert said("sql", "SELECT 1e999 AS a", "--csv")[1] == "a\ninf\n"

    def test_no_sql(self, said: Said) -> None:
        assert said("sql", "selec") == (2, "", 'calls: sql: near "selec": syntax error\n')
