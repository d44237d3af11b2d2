"""`calls replay` as a user meets it: exact output, exit status, and a walk on a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import ledgers
import pytest
from ledgers import COMMAND, Call, Said, uid
from running import LIMIT
from test_replay import tamper

from calls.cli.stepping import walk
from ledger.ledger import Ledger
from ledger.moment import Log
from ledger.sqlite import sqlite3
from machine import facts
from machine.samples import Sample
from machine.units import SECOND

OK = """\
call      0199c841-9c00-7000-8000-000000000001
name      ok
moment    2025-10-09 08:54:21 (+1.500s), after event 3 of 5
event     started engine_at=08:54:20.500 pid=42
state     running for 1.00s
took      1.50s: preparing 0.25s, prepared 0.25s, running 1.00s
owner     host:1, runner runner
sample    +1.100s cpu_total=0.25s mem_usage=3.0MiB mem_peak=4.0MiB pids=1
stdout    4B; it ends:
          out
stderr    4B; it ends:
          err
"""


@pytest.fixture
def damaged(ledger: Path) -> Path:
    """The small ledger, damaged: a row of `call` that is not the log's, and an event that cannot follow."""
    ledgers.small(ledger)
    tamper(
        ledger,
        "UPDATE call SET exit_code = 0 WHERE name = 'three'",
        "DELETE FROM event WHERE seq = 2 AND call_id = (SELECT id FROM call WHERE name = 'slow')",
    )
    return ledger


@pytest.mark.parametrize(
    "at", ["2025-10-09T08:54:21.500Z", "2025-10-09T10:54:21.5+02:00", "2025-10-09 08:54:21.5", "+1.5s"]
)
def test_a_moment_for_people(said: Said, at: str) -> None:
    assert said("replay", uid(1), "--at", at) == (0, OK, "")


def test_the_end_of_the_log_with_what_is_pending(said: Said) -> None:
    status, out, err = said("replay", "stopped", "--at", "2")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "pending   prepare, since event 1",
        'cancel, since event 2 by=user@host:2 via=cli comment="not needed"'.rjust(75),
    ]
    assert "after event 4 of 4" in said("replay", "stopped")[1]


def test_health_deadline_gaps_and_adoption(ledger: Path) -> None:
    with Ledger(ledger) as writing:
        call = Call(writing, 1, "it").note(facts.Prepared(container="c"))
        call.note(facts.Started(deadline=call.at + 2 * SECOND)).note(facts.HealthAwaited(limit=SECOND))
        call.note(facts.Adopted(owner=ledgers.OWNER, previous="gone", why="its runner is gone")).later(3)
        call.note(facts.Gap(of="samples", since=1, until=2, why="nobody was there"))
        writing.sample(call.id, call.at, Sample(cpu_total_pct=12.34, throttled_ns=SECOND))
    out = ledgers.said(ledger, "replay", "it")[1].splitlines()
    for line in (
        "health    starting",
        "deadline  passed 1.00s ago",
        "owner     host:1, runner runner, which adopted it",
        "sample    +3.000s cpu_total=12.3% throttled=1.00s",
        "gaps      1",
    ):
        assert line in out
    assert "deadline  in 2.00s" in ledgers.said(ledger, "replay", "it", "--at", "3")[1]


def test_what_was_cut_and_what_was_pruned(said: Said, tmp_path: Path) -> None:
    from varied import EMPTIED, varied

    assert "stdout    1008B, 18B of it kept; it ends:\n          st\n          last\n" in said("replay", "cut")[1]
    varied(tmp_path / "pruned.db")
    status, out, _ = ledgers.said(tmp_path / "pruned.db", "replay", uid(EMPTIED), "--at", "4", "--check")
    assert status == 0
    assert "state     running for 0.50s" in out
    assert "stdout    not there any more\n" in out
    assert "pruned    events, output, samples: not in the ledger any more, whatever the moment\n" in out
    assert out.endswith("check     what is stored is what the log folds to\n")
    removed = "pruned by=user@host:2 via=cli removed=samples,output,events\n"
    assert f"event     {removed}" in ledgers.said(tmp_path / "pruned.db", "replay", uid(EMPTIED))[1]


def test_json_is_one_object(said: Said) -> None:
    status, out, _ = said("replay", "ok", "--at", "3", "--json", "--check")
    stood = json.loads(out)
    assert status == 0
    assert (stood["id"], stood["seq"], stood["events"], stood["state"]) == (uid(7), 3, 5, "running")
    assert stood["call"]["spec"]["image"] == "busybox:1"
    assert stood["differences"] == []
    assert "differences" not in json.loads(said("replay", "ok", "--nl")[1])


def test_a_row_that_differs(damaged: Path) -> None:
    status, out, err = ledgers.said(damaged, "replay", "three", "--check")
    assert (status, err) == (1, "")
    assert out.endswith("differs   call.exit_code: 0, folded: 3\n")
    difference = {"call": uid(2), "seq": None, "column": "exit_code", "stored": 0, "folded": 3}
    assert json.loads(ledgers.said(damaged, "replay", "three", "--check", "--json")[1])["differences"] == [difference]
    assert ledgers.said(damaged, "replay", "three")[0] == 0


def test_a_call_whose_events_make_no_call(damaged: Path) -> None:
    status, out, err = ledgers.said(damaged, "replay", "slow", "--check")
    assert (status, out, err) == (1, f"call      {uid(3)}\ndiffers   event 3.seq: 3, folded: 2\n", "")
    status, out, err = ledgers.said(damaged, "replay", "slow")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot be replayed" in err


def test_all_says_what_the_ledger_folds_to(said: Said, path: Path) -> None:
    states = {"paused": 1, "success": 4, "error": 2, "timeout": 1, "killed": 1, "cancelled": 1}
    status, out, err = said("replay", "--all")
    *lines, last = out.splitlines()
    assert (status, err) == (0, "")
    assert {line.split()[0]: int(line.split()[1]) for line in lines[1:]} == states
    with closing(sqlite3.connect(path)) as db:
        events = db.execute("SELECT count(*) FROM event").fetchone()[0]
    assert last.startswith(f"10 calls, {events} events, folded in ")
    told = json.loads(said("replay", "--all", "--json")[1])
    assert {one["state"]: one["calls"] for one in told["states"]} == states


def test_all_check(said: Said, damaged: Path) -> None:
    status, out, _ = said("replay", "--all", "--check")
    assert status == 0
    assert out.endswith(": what is stored is what the log folds to\n")
    told = json.loads(said("replay", "--all", "--check", "--json")[1])
    assert list(told) == ["calls", "events", "seconds", "events_per_second", "differences"]
    assert (told["calls"], told["differences"]) == (10, [])
    status, out, _ = ledgers.said(damaged, "replay", "--all", "--check")
    assert status == 1
    assert out.splitlines()[:3] == [
        "CALL          SEQ  COLUMN     STORED  FOLDED",
        "000000000002       exit_code  0       3",
        "000000000003    3  seq        3       2",
    ]
    assert out.endswith(": 2 differences\n")
    status, out, _ = ledgers.said(damaged, "replay", "--all", "--check", "--csv")
    assert status == 1
    assert [row["column"] for row in csv.DictReader(io.StringIO(out))] == ["exit_code", "seq"]
    assert "(none: its events make no call)      1" in ledgers.said(damaged, "replay", "--all")[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "name a CALL, or give --all"),
        (("ok", "--all"), "CALL and --all exclude each other"),
        (("--all", "--at", "1"), "--all and --at exclude each other"),
        (("--all", "--step"), "--step and --all exclude each other"),
        (("ok", "--step", "--json"), "--step and --json exclude each other"),
        (("ok", "--step", "--check"), "--step and --check exclude each other"),
        (("ok", "--step"), "--step needs a terminal"),
        (("ok", "--at", "6"), "there is no event 6: the call has events 1 to 5"),
        (("ok", "--at", "0"), "there is no event 0"),
        (
            ("ok", "--at", "+1h"),
            "outside the call: its log goes from 2025-10-09T09:00:20.000Z to 2025-10-09T09:00:50.510Z",
        ),
        (("ok", "--at", "2025-10-09"), "outside the call: its log goes from"),
        (("ok", "--at", "0001-01-01T00:00+14:00"), "outside the call: its log goes from"),
        (("ok", "--at", "yesterday"), "'yesterday' is no moment: write the number of an event, a time"),
        (("ok", "--at", "-1"), "'-1' is no moment"),
        (("ok", "--at", "+soon"), "'+soon' is no moment"),
        (("ok", "--at", ""), "'' is no moment"),
        (("ok", "--at", "9" * 5000), f"'{'9' * 5000}' is no moment"),
        (("0199c841",), "matches 10 calls"),
    ],
)
def test_wrong_usage(said: Said, arguments: tuple[str, ...], complaint: str) -> None:
    status, out, err = said("replay", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


def test_the_keys(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: list[str] = ["\r", "\n", " ", "n", "n", "p", "b", "g", "p", "x", "G", "q"]
    with Log(path, 1) as log:
        walk(log, 1, iter(keys).__next__)
    shown = [line.split("after event ")[1] for line in capsys.readouterr().out.splitlines() if "after event" in line]
    assert [int(place.partition(" of ")[0]) for place in shown] == [1, 2, 3, 4, 5, 5, 4, 3, 1, 1, 1, 5]


def test_the_end_of_input_ends_the_walk(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def nothing() -> str:
        raise EOFError

    with Log(path, 1) as log:
        walk(log, 2, nothing)
    assert "prepared" in capsys.readouterr().out


def until(terminal: int, key: bytes, over: Callable[[bytes], bool]) -> bytes:
    """Press a key until the screen is as expected: what is typed before the program listens is lost."""
    seen = b""
    with suppress(OSError):  # how Linux says that the other side is closed
        for _ in range(10 * LIMIT):
            os.write(terminal, key)
            while select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536)
            if over(seen):
                return seen
        raise AssertionError(seen)
    return seen


def test_a_walk_on_a_terminal(path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*COMMAND, "--ledger", str(path), "replay", uid(1), "--step", "--at", "2"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, env=os.environ | {"TZ": "UTC"}) as process:
        os.close(theirs)
        try:
            screens = until(ours, b"G", lambda seen: b"after event 5 of 5" in seen)
            assert b"after event 2 of 5" in screens
            assert b"q quit" in screens
            until(ours, b"q", lambda _: process.poll() is not None)
        finally:
            os.close(ours)
    assert process.returncode == 0
