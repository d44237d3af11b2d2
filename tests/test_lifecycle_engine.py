"""Pauses, messages, looks inside and other commands, on the real engine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ledgers import COMMAND
from running import LIMIT, Said, calls, events, kept, kinds, nothing_left, settled, shown, under, until, verdict

import calls as library
from machine.states import State

pytestmark = pytest.mark.engine

OBEYS = "trap 'exit 0' TERM; trap 'echo heard' USR1; echo up; while :; do sleep 0.02; done"


@pytest.fixture(autouse=True)
def clean(engine: docker.APIClient) -> Iterator[None]:
    """No container is left."""
    with nothing_left(engine):
        yield
        if Path(os.environ["CALLS_LEDGER"]).exists() and not settled():
            calls("kill", "@last")
            until(settled, "its end")


def start(*options: str, script: str = OBEYS) -> str:
    """A call that is ready."""
    said = calls("run", "-d", "--network", "none", *options, "busybox", "sh", "-c", script)
    assert said.status == 0, said.err
    until(lambda: kept(1).startswith(b"up"), "its first line")
    return said.out.decode().strip()


def executed() -> list[dict[str, Any]]:
    """What was executed, as recorded."""
    return [event["data"] for event in events() if event["kind"] == "executed"]


def test_a_pause_and_its_end(engine: docker.APIClient) -> None:
    call = start("--sample", "off")
    assert calls("pause", call).status == 0
    assert engine.inspect_container(call)["State"]["Paused"]
    assert calls("pause", call).status == 0
    assert calls("resume", call).status == 0
    assert not engine.inspect_container(call)["State"]["Paused"]
    assert kinds()[3:] == ["pause-requested", "paused", "pause-requested", "resume-requested", "resumed"]


def test_what_is_paused_is_cancelled_in_good_order() -> None:
    call = start()
    calls("pause", call)
    calls("cancel", call)
    until(settled, "its end")
    assert verdict() == ("cancelled", "user", 0)


def test_a_message_is_nobody_elses_signal() -> None:
    call = start()
    assert calls("signal", call, "USR1").status == 0
    until(lambda: b"heard" in kept(1), "its answer")
    assert calls("signal", call, "TERM").status == 0
    until(settled, "its end")
    assert verdict() == ("success", "exit", 0)
    assert shown()["evidence"]["messages"] == ["TERM", "USR1"]
    assert "external_signal" not in shown()["evidence"]


def test_a_message_that_kills_is_the_users() -> None:
    call = start("--init", script="echo up; exec sleep 600")
    assert calls("signal", call, "TERM").status == 0
    until(settled, "its end")
    assert (verdict(), shown()["signal"]) == (("killed", "user", 143), "TERM")


def test_the_processes_are_the_engines() -> None:
    call = start(script="sleep 601 & echo up; wait")
    rows: list[dict[str, Any]] = []

    def executed() -> bool:
        rows[:] = json.loads(calls("top", "--json", call).out)
        return "sleep 601" in [row["command"] for row in rows]

    until(executed, "the child to be what it is told to be")
    (child,) = [row for row in rows if row["command"] == "sleep 601"]
    assert child["parent"] in {row["pid"] for row in rows}
    assert Path(f"/proc/{child['pid']}").exists()
    assert (child["user"], child["cpu_seconds"]) == ("root", 0)
    assert kinds()[-1] == "listed"


def test_output_and_exit_status_of_another_command_are_passed_on() -> None:
    call = start()
    assert calls("exec", call, "sh", "-c", "printf out; printf err >&2; exit 7") == (7, b"out", b"err")
    assert calls("exec", call, "true") == Said(0, b"", b"")
    (first, second) = executed()
    assert (first["command"], first["exit_code"]) == (["sh", "-c", "printf out; printf err >&2; exit 7"], 7)
    assert (first["by"]["via"], first["seconds"] >= 0, "error" in first) == ("cli", True, False)
    assert second["exit_code"] == 0
    assert b"out" not in calls("logs", call).out


def test_much_of_any_bytes_goes_in_and_comes_out_unchanged() -> None:
    call, data = start(), random.Random(7).randbytes(16 * 2**20)
    assert calls("exec", "-i", call, "cat", stdin=data) == (0, data, b"")


def test_without_interactive_its_input_is_empty() -> None:
    call = start()
    assert calls("exec", call, "cat", stdin=b"not for it") == (0, b"", b"")


def test_how_it_is_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    call = start("-e", "KEPT=1")
    how = ("-e", "A=b c", "-e", "HERE", "-u", "1000:1000", "-w", "/tmp")
    said = calls("exec", *how, call, "sh", "-c", "echo $A $HERE $KEPT $(id -u) $PWD -i", HERE="there")
    assert said == (0, b"b c there 1 1000 /tmp -i\n", b"")


@pytest.mark.parametrize(("word", "status"), [("nosuch-command", 127), ("/etc", 126)])
def test_what_is_no_command(word: str, status: int) -> None:
    call = start()
    said = calls("exec", call, word)
    assert said.status in {126, status}  # engines before 25 say 126 to both
    assert word.encode() in said.out + said.err
    assert executed()[0]["exit_code"] == said.status


def test_what_is_paused_executes_nothing_and_the_engine_says_why() -> None:
    call = start()
    calls("pause", call)
    said = calls("exec", call, "true")
    assert (said.status, b"paused" in said.err, executed()) == (125, True, [])
    calls("resume", call)


def test_secrets_are_not_recorded_with_another_command() -> None:
    script = OBEYS.replace("echo up", "echo up, and more than a secret is long")  # so much of it is held back
    call = start("--secret", "PASS=cmd:echo hunter-two", script=script)
    calls("exec", "-e", "API_TOKEN=swordfish", call, "sh", "-c", "echo hunter-two swordfish plain")
    assert executed()[0]["command"][-1] == "echo ‹redacted› ‹redacted› plain"
    assert b"hunter-two" not in Path(os.environ["CALLS_LEDGER"]).read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_is_broken_off_is_recorded_too(number: signal.Signals, status: int) -> None:
    call = start()
    with under("exec", call, "sh", "-c", "echo begun; sleep 60") as process:
        process.hear(b"begun")
        process.send(number)
        assert process.end().status == status
    (told,) = executed()
    assert ("exit_code" in told, told["error"]) == (False, "interrupted: its end was not seen")


def test_nobody_reads_what_it_writes() -> None:
    call = start()
    words = [*COMMAND, "exec", call, "sh", "-c", "yes"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(LIMIT) != 0
    assert "error" in executed()[0]


def test_what_runs_on_after_the_call_ends_with_it() -> None:
    call = start()
    with under("exec", call, "sh", "-c", "echo begun; sleep 60") as process:
        process.hear(b"begun")
        calls("kill", call)
        until(settled, "its end")
        assert process.end().status != 0
    assert len(executed()) == 1


def test_a_container_that_is_removed_takes_the_end_of_another_command_along(engine: docker.APIClient) -> None:
    call = start()
    with under("exec", call, "sh", "-c", "echo begun; sleep 60") as process:
        process.hear(b"begun")
        engine.remove_container(call, force=True)
        assert process.end().status != 0
    until(settled, "its end")
    (told,) = executed()
    assert told.get("exit_code") or told["error"].startswith("its end was not seen")


def test_a_look_inside_leaves_nothing_open(runner: library.Runner) -> None:
    up = threading.Event()
    options: dict[str, Any] = {"network": "none", "output": lambda *_: up.set()}
    future = runner.submit("busybox", ["sh", "-c", OBEYS], **options)
    assert up.wait(LIMIT)
    until(lambda: shown()["state"] == State.RUNNING, "its start")
    script = (
        "import os, sys, threading; from calls.cli.group import run; from running import until\n"
        "def left(): return len(os.listdir('/proc/self/fd')), threading.active_count()\n"
        "def look(): return run(['top', sys.argv[1]]), run(['exec', sys.argv[1], 'true'])\n"
        "before = left()\n"
        "looks = [look() for _ in range(5)]\n"
        "until(lambda: left() == before, 'the end of all threads')\n"
        "print(*looks, file=sys.stderr)"
    )
    words = [sys.executable, "-c", script, future.id]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * LIMIT, check=False, env=environment)
    assert done.stderr == f"{' '.join(['(0, 0)'] * 5)}\n"
    runner.signal(future.id, "TERM")
    assert future.result(60).state == "success"
