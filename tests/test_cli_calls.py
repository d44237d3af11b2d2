"""The commands about single calls and this host, as a user meets them: logs, wait, kill, cancel, doctor."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import COMMAND, Call, Said, small, uid

from ledger.ledger import Ledger
from ledger.read import Reader
from machine import facts
from machine.states import Reason, State

Command = Callable[..., "subprocess.CompletedProcess[str]"]
NO_ENGINE = "unix:///nowhere/docker.sock"  # then a call that has no runner is left as it is


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ledger that no test changes."""
    path = tmp_path_factory.mktemp("cli") / "ledger.db"
    small(path)
    return path


class TestLogs:
    """`calls logs`."""

    def test_each_stream_to_its_own(self, said: Said) -> None:
        assert said("logs", uid(1)) == (0, "out\n", "err\n")
        assert said("logs", uid(1), "--stdout") == (0, "out\n", "")
        assert said("logs", uid(1), "--stderr") == (0, "", "err\n")
        assert said("logs", uid(1), "--stdout", "--stderr")[0] == 2

    def test_byte_for_byte(self, ledger: Path) -> None:
        data = bytes(range(256)) * 1000
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            for offset in range(0, len(data), 1000):
                call.write(1, offset, data[offset : offset + 1000])
            call.end(State.SUCCESS, Reason.EXIT)
        assert subprocess.check_output([*COMMAND, "logs", "@last"]) == data

    def test_what_is_missing_is_said_where_it_is_missing(self, said: Said) -> None:
        missing = "calls: 990 bytes of stdout are missing here: --log-limit was reached\n"
        missing_too = "calls: 5 bytes of stderr are missing here: --log-limit was reached\n"
        assert said("logs", "cut") == (0, "one\ntwo\nthst\nlast\n", "oops" + missing + missing_too)
        assert said("logs", "cut", "--stderr") == (0, "", "oops" + missing_too)
        assert said("logs", "cut", "--stdout", "--tail", "1") == (0, "last\n", "")

    @pytest.mark.parametrize(
        ("count", "out", "err"),
        [
            ("0", "", ""),
            ("1", "last\n", ""),
            ("2", "st\nlast\n", ""),
            ("3", "st\nlast\n", "oops"),
            ("4", "thst\nlast\n", "oops"),
            ("99", "one\ntwo\nthst\nlast\n", "oops"),
        ],
    )
    def test_the_last_lines_of_both(self, said: Said, count: str, out: str, err: str) -> None:
        status, printed, complained = said("logs", "cut", "--tail", count)
        told = [line for line in complained.splitlines() if "missing" not in line]
        assert (status, printed) == (0, out)
        assert "".join(told) == err or complained.startswith(err)

    def test_timestamps_begin_lines_not_pieces(self, command: Command, ledger: Path) -> None:
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start().write(1, 0, b"a\nb").later(1).write(1, 3, b"c\n\nd")
            call.end(State.SUCCESS, Reason.EXIT)
        first, second = "2025-10-09T08:54:20.500Z", "2025-10-09T08:54:21.500Z"
        expected = f"{first} a\n{first} bc\n{second} \n{second} d"
        assert command("logs", "-t", "@last").stdout == expected

    def test_in_rows_a_piece_is_a_row(self, said: Said) -> None:
        rows = [json.loads(line) for line in said("logs", "cut", "--nl", "--tail", "2")[1].splitlines()]
        assert rows == json.loads(said("logs", "cut", "--json", "--tail", "2")[1])
        assert [(row["stream"], row["data"]) for row in rows] == [("stdout", "st\nlast\n")]
        assert (
            said("logs", "cut", "--csv", "--stderr", "--tail", "9")[1].splitlines()[0] == "at,stream,offset_bytes,data"
        )
        refused = said("logs", "cut", "--csv", "-t")
        assert refused == (2, "", "calls: --timestamps and --csv exclude each other (see calls logs --help)\n")

    def test_follow_until_the_end(self, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start().write(1, 0, b"early\nfirst\n").note(facts.OomSeen(source="event"))
            words = [*COMMAND, "logs", "-f", "--tail", "1", "@last"]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "first\n"
                call.write(1, 12, b"last\n").end(State.SUCCESS, Reason.EXIT)
                assert process.stdout.read() == "last\n"
        assert process.returncode == 0


class TestWait:
    """`calls wait`."""

    def test_exit_codes_in_the_order_given(self, said: Said) -> None:
        assert said("wait", "three", "oom", uid(1)) == (0, "3\n137\n0\n", "")

    def test_in_rows_each_call_with_its_end(self, said: Said) -> None:
        three, stopped = json.loads(said("wait", "three", "stopped", "--json")[1])
        assert (three["call"], three["id"], three["state"], three["exit_code"]) == ("three", uid(2), "error", 3)
        assert (stopped["reason"], stopped["exit_code"], stopped["never_ran"]) == ("user", None, True)

    def test_without_an_exit_code_what_run_would_have_said(self, said: Said) -> None:
        assert said("wait", uid(6), "stopped") == (0, "125\n130\n", "")

    def test_until_the_end(self, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            with subprocess.Popen([*COMMAND, "wait", "@last"], stdout=subprocess.PIPE, text=True) as process:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                call.end(State.ERROR, Reason.EXIT, exit_code=7)
                assert process.communicate(timeout=60)[0] == "7\n"

    def test_a_call_that_nobody_can_take_up_is_said_to_be_one(
        self, ledger: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
        with Ledger(ledger) as writing:
            call = Call(writing, 1).start()
            with subprocess.Popen([*COMMAND, "wait", "@last"], stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                told = process.stderr.readline()
                call.end(State.SUCCESS, Reason.EXIT, exit_code=0)
                assert (told, process.stderr.read()) == (
                    "calls: the call's runner is gone; still waiting (calls recover says why)\n",
                    "",
                )
        assert process.returncode == 0

    def test_an_unknown_call(self, said: Said) -> None:
        assert said("wait", "three", "nope")[:2] == (1, "")


class TestRequests:
    """`calls kill` and `calls cancel`."""

    def test_the_request_is_written_and_the_call_named_as_given(
        self, command: Command, ledger: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
        with Ledger(ledger) as writing:
            Call(writing, 1, "one").start()
            Call(writing, 2, "two").start()
        killed = command("kill", "-s", "sigterm", "one", uid(2))
        assert (killed.returncode, killed.stdout, killed.stderr) == (0, f"one\n{uid(2)}\n", "")
        cancelled = command("cancel", "--comment", "enough", "two", "--json")
        assert (cancelled.returncode, json.loads(cancelled.stdout)) == (0, [{"call": "two", "id": uid(2)}])
        with Reader(ledger) as reader:
            (kill,), (also, cancel) = (reader.events(call_id, after_seq=3) for call_id in (1, 2))
        assert (kill["kind"], kill["data"]["signal"], kill["state"]) == ("kill-requested", "TERM", "running")
        assert (also["kind"], cancel["kind"], cancel["data"]["comment"]) == (
            "kill-requested",
            "cancel-requested",
            "enough",
        )
        assert (cancel["data"]["by"]["via"], cancel["data"]["by"]["uid"]) == ("cli", os.getuid())

    @pytest.mark.parametrize("name", ["kill", "cancel"])
    def test_a_call_that_ended_cannot_be_asked_but_others_are(self, command: Command, ledger: Path, name: str) -> None:
        small(ledger)
        done = command(name, "three", "live", "nope")
        assert (done.returncode, done.stdout) == (1, "live\n")
        assert done.stderr.splitlines() == [
            "calls: three has ended already: error/exit",
            f"calls: no call matches 'nope' in {ledger} (calls ps -a lists them)",
        ]
        assert command(name, "0199").returncode == 2

    def test_what_is_no_signal(self, said: Said) -> None:
        status, out, err = said("kill", "-s", "FOO", "live")
        assert (status, out) == (2, "")
        assert err == "calls: --signal: 'FOO' is not a signal (write TERM, SIGTERM or 15) (see calls kill --help)\n"

    def test_a_runner_obeys(self, command: Command) -> None:
        options = ("--driver", "local", "-d", "--stop-timeout", "1s")
        for name in ("one", "two"):
            assert command("run", *options, "--name", name, "--", "sleep", "60").returncode == 0
        assert command("cancel", "one").stdout == "one\n"
        assert command("kill", "two").stdout == "two\n"
        assert command("wait", "one", "two").returncode == 0
        shown = json.loads(command("show", "one", "two", "--json").stdout)
        assert [(call["state"], call["reason"]) for call in shown] == [
            ("cancelled", "user"),
            ("killed", "user"),
        ]


class TestDoctor:
    """`calls doctor`."""

    def test_no_engine(self, said: Said, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        status, out, err = said("doctor", "--json")
        engine, ledger, drivers = json.loads(out)
        assert (status, err) == (1, "")
        assert (engine["check"], engine["verdict"]) == ("engine", "bad")
        assert "no Docker Engine at unix:///nowhere/docker.sock" in engine["detail"]
        assert (ledger["check"], ledger["verdict"]) == ("ledger", "ok")
        assert ledger["detail"].startswith(f"{path}  ")
        assert "schema 2  WAL  10 calls  SQLite 3." in ledger["detail"]
        assert drivers == {"check": "drivers", "verdict": "ok", "detail": "docker, local"}

    def test_no_ledger_is_no_fault_and_none_is_made(self, command: Command, ledger: Path) -> None:
        rows = {row["check"]: row for row in json.loads(command("doctor", "--json").stdout)}
        assert rows["ledger"]["verdict"] == "ok"
        assert rows["ledger"]["detail"] == f"{ledger} is not there yet: the first call makes it"
        assert not ledger.exists()

    def test_what_is_no_ledger(self, command: Command, ledger: Path) -> None:
        ledger.write_text("not a database, but long enough to be looked at as one" * 100)
        done = command("doctor", "--nl")
        assert done.returncode == 1
        assert any('"ledger", "verdict": "bad"' in line for line in done.stdout.splitlines())

    def test_a_ledger_that_was_switched_from_wal_mode(self, command: Command, ledger: Path) -> None:
        small(ledger)
        with closing(sqlite3.connect(ledger)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        rows = {row["check"]: row for row in json.loads(command("doctor", "--json").stdout)}
        assert rows["ledger"]["verdict"] == "bad"
        assert "  DELETE  10 calls  " in rows["ledger"]["detail"]
        assert "readers and writers wait for each other" in rows["ledger"]["detail"]

    @pytest.mark.engine
    def test_an_engine(self, command: Command) -> None:
        rows = {row["check"]: row for row in json.loads(command("doctor", "--json").stdout)}
        assert list(rows) == ["engine", "samples", "totals", "ledger", "clock", "drivers"]
        assert (rows["engine"]["verdict"], rows["clock"]["verdict"]) == ("ok", "ok")
