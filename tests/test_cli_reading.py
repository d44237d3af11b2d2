"""`calls ps` and `calls show` as a user meets them: exact output, exit status; and where output goes."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import COMMAND, Call, Said, uid
from terminals import screen

from ledger.ledger import Ledger
from machine.states import Kind, Reason, State

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PS = """\
CALL          NAME     IMAGE                STATE      REASON        EXIT   WALL    CPU   PEAK MEM  STARTED
000000000009  cut      busybox:1            success    exit             0  1.00s                    2025-10-09 09:02:20
000000000008  stopped  busybox:1            cancelled  user                0.12s
000000000007  ok       busybox:1            success    exit             0  30.5s  10.0s  1000.0KiB  2025-10-09 09:00:20
000000000006           nosuch:1             error      pull-missing        0.12s
000000000005  child    busybox:1            success!   exit             0  1.00s                    2025-10-09 08:58:20
000000000004  oom      busybox:1            killed     oom            137  1.00s           32.0MiB  2025-10-09 08:57:20
000000000003  slow     registry:5000/app:2  timeout    deadline       137  3.62s                    2025-10-09 08:56:20
000000000002  three    busybox:1            error      exit             3  1.50s                    2025-10-09 08:55:20
000000000001  ok       busybox:1            success    exit             0  2.00s  0.50s     4.0MiB  2025-10-09 08:54:20
"""


class TestPs:
    """`calls ps`."""

    ENDED = (
        "-f",
        "state=success,state=error",
        "-f",
        "state=killed",
        "-f",
        "state=timeout",
        "-f",
        "state=cancelled",
    )

    def test_a_table(self, said: Said) -> None:
        assert said("ps", *self.ENDED) == (0, PS, "")

    def test_ids_only(self, said: Said) -> None:
        assert said("ps", "-q", "-n", "2") == (0, f"{uid(10)}\n{uid(9)}\n", "")

    def test_all_but_only_the_last(self, said: Said) -> None:
        assert said("ps", "-a", "-q", "-n", "1") == (0, f"{uid(10)}\n", "")

    def test_live_and_the_last_twenty(self, command: Command, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            Call(writing, 1).start()
            for number in range(2, 33):
                Call(writing, number).start().end(State.SUCCESS, Reason.EXIT)
        ids = [uid(number) for number in range(32, 12, -1)]
        assert command("ps", "-q").stdout.split() == [*ids, uid(1)]
        assert len(command("ps", "-aq").stdout.split()) == 32

    def test_forms_have_what_show_has(self, said: Said) -> None:
        shown = json.loads(said("show", "oom", "--json")[1])
        assert json.loads(said("ps", "-f", "name=oom", "--json")[1]) == [shown]
        assert [json.loads(line) for line in said("ps", "-f", "name=oom", "--nl")[1].splitlines()] == [shown]
        rows = list(csv.DictReader(io.StringIO(said("ps", "-f", "name=oom", "--csv")[1])))
        assert [(row["id"], row["oom"], row["signal"], row["name"]) for row in rows] == [
            (uid(4), "certain", "KILL", "oom")
        ]
        assert json.loads(rows[0]["seconds"]) == shown["seconds"]
        assert said("ps", "-f", "name=oom", "--tsv")[1].split("\t")[:2] == ["id", "name"]

    def test_nothing_found(self, said: Said) -> None:
        titles = "CALL  NAME  IMAGE  STATE  REASON  EXIT  WALL  CPU  PEAK MEM  STARTED\n"
        assert said("ps", "-f", "name=nope") == (0, titles, "")
        assert said("ps", "-f", "name=nope", "--json") == (0, "[]\n", "")
        assert said("ps", "-f", "name=nope", "--csv") == (0, "", "")

    def test_a_comma_in_a_label(self, said: Said) -> None:
        assert said("ps", "-q", "-f", "label=team=a,b,state=error") == (0, f"{uid(2)}\n", "")

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("--json", "--csv"), "--json and --csv exclude each other"),
            (("-q", "--nl"), "--quiet and --nl exclude each other"),
            (("-f", "colour=red"), "write KEY=VALUE with one of the keys state, reason, name, image, label"),
            (("-f", "state=dead"), "there is no such state; there are preparing, prepared, running"),
            (("-f", "reason=dead"), "there is no such reason"),
            (("-n", "0"), "0 is not in the range x>=1"),
        ],
    )
    def test_wrong_usage(self, said: Said, arguments: tuple[str, ...], complaint: str) -> None:
        status, out, err = said("ps", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert complaint in err


class TestShow:
    """`calls show`."""

    def test_for_people(self, said: Said) -> None:
        digest = "d" * 64
        assert said("show", uid(1)) == (
            0,
            f"""\
call       {uid(1)}
name       ok
state      success/exit
exit       code 0
image      busybox:1
digest     sha256:{digest}
driver     docker
container  cccccccccccc
command    sh -c 'echo out; echo err >&2'
asked      timeout=1m30s
created    2025-10-09 08:54:20
started    2025-10-09 08:54:20
ended      2025-10-09 08:54:22
took       2.00s: preparing 0.25s, prepared 0.25s, running 1.50s
cpu        0.50s
memory     4.0MiB at most
samples    2
events     5
evidence   exits={{"die":0,"inspect":0}}
""",
            "",
        )

    def test_what_never_ran_and_what_memory_ran_out_in(self, said: Said) -> None:
        status, out, _ = said("show", uid(6), "child")
        assert status == 0
        assert "state      error/pull-missing\nmessage    no such image: nosuch:1\nexit       it never ran\n" in out
        assert f"\n\ncall       {uid(5)}\n" in out
        assert "state      success!/exit\n" in out
        assert "oom        certain: memory ran out in it, but that did not end it\n" in out

    def test_one_call_is_an_object_and_several_are_an_array(self, said: Said) -> None:
        assert json.loads(said("show", "three", "--json")[1])["id"] == uid(2)
        assert [call["id"] for call in json.loads(said("show", "three", "oom", "--json")[1])] == [
            uid(2),
            uid(4),
        ]
        assert json.loads(said("show", "three", "--nl")[1])["exit_code"] == 3

    def test_exit_status_says_whose_fault(self, said: Said, path: Path) -> None:
        unknown = f"calls: no call matches 'nope' in {path} (calls ps -a lists them)\n"
        assert said("show", "three", "nope") == (1, "", unknown)
        status, out, err = said("show", "0199")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("calls: '0199' matches 10 calls: 00000000000a (live), ")

    def test_a_hostile_message_cannot_steer_the_terminal(self, command: Command, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            message = "\x1b[2Jboo\nhoo\x9b"
            Call(writing, 1).end(State.ERROR, Reason.CREATE_REFUSED, never_ran=True, message=message)
        assert "message    \\x1b[2Jboo\\nhoo\\x9b\n" in command("show", "@last").stdout

    def test_half_a_character_in_recorded_json_is_escaped(self, command: Command, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1)
            writing.append(call.id, Kind.CANCEL_REQUESTED, None, call.at, None, '{"by":{},"comment":"\\udcff"}')
        done = command("events", "@last", "--nl")
        assert json.loads(done.stdout.splitlines()[-1])["data"]["comment"] == "\udcff"


class TestLedgerOption:
    """Where the ledger is."""

    def test_before_and_after_the_command(self, command: Command, path: Path) -> None:
        expected = (0, f"{uid(10)}\n", "")
        for arguments in (
            ("--ledger", str(path), "ps"),
            ("-l", str(path), "ps"),
            ("ps", "--ledger", str(path)),
        ):
            done = command(*arguments, "-qn1")
            assert (done.returncode, done.stdout, done.stderr) == expected

    @pytest.mark.parametrize("name", ["ps", "show", "events", "stats", "logs", "wait", "kill", "cancel", "sql"])
    def test_reading_never_makes_one(self, command: Command, ledger: Path, name: str) -> None:
        done = command(name, *((name != "ps") * ["@last"]))
        complaint = "record a call first (calls run IMAGE), or give --ledger FILE"
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"calls: no ledger at {ledger} yet: {complaint}\n"
        assert not ledger.exists()

    @pytest.mark.parametrize(
        "name", ["ps", "show", "events", "stats", "logs", "wait", "kill", "cancel", "sql", "doctor"]
    )
    def test_every_command_explains_itself(self, command: Command, name: str) -> None:
        short, long = command(name, "-h"), command(name, "--help")
        assert (short.returncode, short.stdout) == (0, long.stdout)
        assert short.stdout.startswith(f"Usage: calls {name} [OPTIONS]")
        assert "--ledger FILE" in short.stdout


class TestOutput:
    """Where the output goes."""

    def test_a_reader_that_leaves_early_is_no_fault(self, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            for number in range(5000):
                call.sample(number, number)
            call.end(State.SUCCESS, Reason.EXIT)
        for words in ("stats @last --nl", "stats @last --csv", "sql 'SELECT * FROM samples'"):
            line = f"{' '.join(COMMAND)} {words} | head -1"
            done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
            assert (done.stdout.count("\n"), done.stderr) == (1, "")

    def test_a_terminal_gets_colour_unless_it_wants_none(self, path: Path) -> None:
        words = [*COMMAND, "ps", "--ledger", str(path), "-f", "state=killed"]
        assert "\x1b[31mkilled" in on_terminal(words, {"TERM": "xterm"})
        plain = on_terminal(words, {"TERM": "xterm", "NO_COLOR": "1"})
        assert "killed" in plain
        assert "\x1b[3" not in plain

    def test_a_narrow_terminal_folds_and_loses_nothing(self, path: Path) -> None:
        shown = on_terminal([*COMMAND, "events", "stopped", "--ledger", str(path)], {"TERM": "dumb", "COLUMNS": "70"})
        assert "by=user@host:2via=cli" in "".join(shown.split())
        listed = on_terminal([*COMMAND, "ps", "--ledger", str(path)], {"TERM": "dumb", "COLUMNS": "30"})
        for part in ("00000000000a", "registry:5000/app:2", "pull-missing", "1000.0KiB"):
            assert part in listed


def on_terminal(words: list[str], environment: dict[str, str]) -> str:
    """What a command prints when its standard output is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=theirs, env=os.environ | environment) as process:
        os.close(theirs)
        printed = screen(ours)
    os.close(ours)
    assert process.returncode == 0
    return printed.decode()
