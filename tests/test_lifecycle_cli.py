"""`calls pause`, `resume`, `signal`, `top` and `exec` on calls of another process; here on processes of this host."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import Call
from running import calls, events, kept, kinds, recorder, settled, shown, steps, until, verdict

import calls as library
from calls.cli import answers
from calls.cli.group import run
from ledger.ledger import Ledger
from machine.errors import CallsError, NotRunningError, UsageError
from machine.spec import Spec

OBEYS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"
HEARS = "trap 'echo heard' USR1; trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done"
Start = Callable[[str], str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a call that writes `up` when it is ready; none is left."""

    def begin(script: str) -> str:
        said = calls("run", "-d", "--driver", "local", "--", "sh", "-c", f"exec 2>/dev/null; {script}")
        assert said.status == 0, said.err
        until(lambda: kept(1).startswith(b"up"), "its first line")
        return said.out.decode().strip()

    yield begin
    if kinds()[-1] != "cleaned":
        calls("kill", "@last")
        until(settled, "its end")


def asked(kind: str) -> list[dict[str, Any]]:
    """Who asked for it."""
    return [event["data"]["by"] for event in events() if event["kind"] == kind]


def test_a_pause_and_its_end_from_another_process(start: Start) -> None:
    call = start(OBEYS)
    assert calls("pause", call) == (0, f"{call}\n".encode(), b"")
    assert (shown()["state"], calls("pause", "@last")) == ("paused", (0, b"@last\n", b""))
    assert calls("resume", call[-12:]) == (0, f"{call[-12:]}\n".encode(), b"")
    assert (shown()["state"], calls("resume", call).status) == ("running", 0)
    calls("cancel", call)
    until(settled, "its end")
    assert verdict() == ("cancelled", "user", 0)
    assert kinds().count("paused") == kinds().count("resumed") == 1
    assert [(who["via"], who["uid"]) for who in asked("pause-requested")] == [("cli", os.getuid())] * 2
    assert len({who["pid"] for who in (*asked("pause-requested"), *asked("resume-requested"))}) == 4


def test_what_is_paused_is_stopped_in_good_order(start: Start) -> None:
    call = start(OBEYS)
    calls("pause", call)
    calls("cancel", call)
    until(settled, "its end")
    assert verdict() == ("cancelled", "user", 0)
    assert steps()[-5:] == ["cancel-requested", "signalled", "resumed", "cancelled", "cleaned"]


@pytest.mark.parametrize("name", ["USR1", "sigusr1", str(int(signal.SIGUSR1))])
def test_a_message_by_each_of_its_names(start: Start, name: str) -> None:
    call = start(HEARS)
    assert calls("signal", call, name) == (0, f"{call}\n".encode(), b"")
    until(lambda: b"heard" in kept(1), "its answer")
    assert calls("signal", call, "TERM").status == 0
    until(settled, "its end")
    assert verdict() == ("error", "exit", 3)
    assert shown()["evidence"]["messages"] == ["TERM", "USR1"]
    assert [who["via"] for who in asked("signal-requested")] == ["cli", "cli"]


def test_a_message_that_kills(start: Start) -> None:
    call = start(OBEYS)
    assert calls("signal", call, "USR2").status == 0
    until(settled, "its end")
    assert (verdict(), shown()["signal"]) == (("killed", "user", 140), "USR2")


def test_what_is_no_signal_is_not_recorded(start: Start) -> None:
    call = start(OBEYS)
    said = calls("signal", call, "NONSENSE")
    assert (said.status, b"is not a signal" in said.err) == (2, True)
    assert "signal-requested" not in kinds()


def test_the_processes(start: Start) -> None:
    call = start(OBEYS)
    rows = json.loads(calls("top", "--json", call).out)
    first = rows[0]
    assert list(first) == ["pid", "parent", "user", "cpu_seconds", "command"]
    assert (first["pid"], first["parent"]) == (events()[2]["data"]["pid"], recorder())
    assert OBEYS in first["command"]
    assert all(row["parent"] == first["pid"] for row in rows[1:])
    table = calls("top", call).out.decode().splitlines()
    assert table[0].split() == ["PID", "PARENT", "USER", "CPU", "COMMAND"]
    assert kinds().count("listed") == 2
    assert asked("listed")[0]["via"] == "cli"


def test_there_is_nothing_to_execute_in(start: Start) -> None:
    call = start(OBEYS)
    said = calls("exec", call, "true")
    assert (said.status, said.out) == (125, b"")
    assert said.err.startswith(b"calls: a process of this host has no container")
    assert "executed" not in kinds()


WORDS = (["pause"], ["resume"], ["top"], ["exec"], ["signal"])


def words(command: list[str], call: str) -> list[str]:
    """The command line that asks it of a call."""
    return [*command, call, *{"exec": ["true"], "signal": ["TERM"]}.get(command[0], [])]


@pytest.mark.parametrize("command", WORDS)
def test_of_what_has_ended_or_is_not_there_nothing_can_be_asked(
    ledger: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with library.Runner(ledger) as runner:
        call = runner.run(None, ["true"], driver="local")
    before, no = kinds(), 125 if command == ["exec"] else 1
    assert run(words(command, call.id)) == no
    assert capsys.readouterr().err == f"calls: {call.id} has ended already: success/exit\n"
    assert (run(words(command, "nosuch-call")), kinds()) == (no, before)
    assert "no call matches 'nosuch-call'" in capsys.readouterr().err


@pytest.mark.parametrize("command", WORDS)
def test_of_what_has_not_started_nothing_can_be_asked(
    ledger: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with Ledger(ledger) as log:
        call = Call(log, 1)
    assert run(words(command, call.uid)) == (125 if command == ["exec"] else 1)
    assert capsys.readouterr().err == f"calls: {call.uid} has not started yet: it is preparing\n"
    assert kinds() == ["submitted"]


def test_several_calls_at_once_and_each_gets_its_answer(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    call = start(OBEYS)
    assert run(["pause", call, "nosuch-call", "@last"]) == 1
    said = capsys.readouterr()
    assert (said.out.split(), said.err.count("\n")) == ([call, "@last"], 1)


def test_nobody_answers(start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call = start(OBEYS)
    monkeypatch.setattr(answers, "PATIENCE", 0)
    os.kill(recorder(), signal.SIGSTOP)
    try:
        assert run(["pause", call]) == 2
    finally:
        os.kill(recorder(), signal.SIGCONT)
    assert "nobody has answered" in capsys.readouterr().err
    until(lambda: shown()["state"] == "paused", "the answer, after all")


def test_a_dead_runner_gets_a_successor_which_answers(start: Start) -> None:
    call = start(f"{OBEYS} >/dev/null")
    os.kill(recorder(), signal.SIGKILL)
    assert calls("pause", call)[:2] == (0, f"{call}\n".encode())  # (if it waits long, it says so)
    assert calls("top", call).status == 0
    assert calls("resume", call).status == 0
    assert kinds().index("pause-requested") < kinds().index("paused")
    assert "adopted" in kinds()


def test_in_python(ledger: Path) -> None:
    with library.Runner(ledger) as runner:
        spec = Spec.parse(driver="local", command=["sh", "-c", OBEYS])
        up = threading.Event()
        future = runner.submit_spec(spec, lambda _stream, _data: up.set())
        assert up.wait(60)
        until(lambda: shown()["state"] == "running", "its start")
        runner.pause(future.id)
        until(lambda: shown()["state"] == "paused", "its pause")
        runner.resume(future.id)
        until(lambda: shown()["state"] == "running", "its end")
        with pytest.raises(UsageError, match="not a signal"):
            runner.signal(future.id, "NONSENSE")
        runner.signal(future.id, "SIGTERM")
        ended = future.result(60)
        assert (ended.state, ended.exit_code) == ("success", 0)
        for act in (runner.pause, runner.resume, lambda call: runner.signal(call, "TERM")):
            with pytest.raises(NotRunningError):
                act(future.id)
    assert [who["via"] for who in asked("pause-requested")] == ["api"]
    assert issubclass(NotRunningError, CallsError)
