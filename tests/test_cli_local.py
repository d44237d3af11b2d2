"""`calls run --driver local`: the same for a process of this host, and a refusal of what only an engine can do."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import running
from running import (
    ARMED,
    LIMIT,
    STUBBORN,
    Said,
    calls,
    events,
    kept,
    kinds,
    settled,
    shown,
    told,
    under,
    until,
    verdict,
)

from driver.local import NOT_ISOLATED

LOCAL = ("run", "--driver", "local")
WARNING = f"calls: warning: {NOT_ISOLATED}\n".encode()
STAY = "echo up; while [ ! -e open ]; do sleep 0.05; done; echo done; exit 4"
"""A script that ends when the file `open` is made in its folder."""
QUIET = f"exec 2>/dev/null; {ARMED}"
"""Signals go to the whole group, and this host's shell may say what became of its children."""


def local(*words: str, stdin: bytes = b"", **environment: str) -> Said:
    """`calls run --driver local`, and it says once what that means."""
    return warned(calls(*LOCAL, *words, stdin=stdin, **environment))


def warned(said: Said) -> Said:
    """What was said after the warning."""
    assert said.err.startswith(WARNING)
    return said._replace(err=said.err.removeprefix(WARNING))


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is asked."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


@pytest.mark.parametrize("status", [0, 3, 125, 137, 255])
def test_the_exit_status_is_the_commands(status: int) -> None:
    assert local("--", "sh", "-c", f"exit {status}") == (status, b"", b"")
    assert verdict() == ("error" if status else "success", "exit", status)


def test_a_timeout() -> None:
    said = local("--timeout", "300ms", "--", "sleep", "60")
    assert said[:2] == (124, b"")
    assert told(said) == "timeout/deadline, exit code 143"


def test_a_timeout_of_what_does_not_listen() -> None:
    said = local("--timeout", "2s", "--stop-timeout", "100ms", "--", "sh", "-c", STUBBORN)
    assert said[:2] == (124, b"up\n")
    assert told(said) == "timeout/deadline, exit code 137"
    assert [event["data"]["signal"] for event in events() if event["kind"] == "signalled"] == ["TERM", "KILL"]


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        ("/etc", 126, "error/start-not-executable: /etc: permission denied"),
        ("./nosuch", 127, "error/start-not-found: ./nosuch: no such file or command"),
        ("nosuch", 127, "error/start-not-found: nosuch: no such file or command"),
    ],
)
def test_what_cannot_be_started(command: str, status: int, line: str) -> None:
    said = local("--", command)
    assert said[:2] == (status, b"")
    assert told(said) == line
    assert shown()["never_ran"]


@pytest.mark.usefixtures("heeding_hangup")
@pytest.mark.parametrize(("name", "status"), [("KILL", 137), ("TERM", 143), ("HUP", 129), ("SEGV", 139)])
def test_ended_by_a_signal(name: str, status: int) -> None:
    said = local("--", "sh", "-c", f"kill -{name} $$")
    assert said[:2] == (status, b"")
    assert told(said) == f"killed/external, exit code {status}, signal {name}"


@pytest.mark.parametrize(
    "words",
    [
        ["--volume", "/a:/b"],
        ["--tmpfs", "/a"],
        ["--network", "none"],
        ["--memory", "64m"],
        ["--cpus", "1"],
        ["--pids-limit", "10"],
        ["--user", "1"],
        ["--read-only"],
        ["--entrypoint", "/a"],
        ["--init"],
        ["--pull", "always"],
        ["--health-cmd", "true"],
        ["--health-timeout", "1s"],
        ["--no-healthcheck"],
    ],
)
def test_what_only_an_engine_can_do_is_refused(words: list[str]) -> None:
    line = f"calls: {words[0]}: the local driver cannot honour it; leave it out or use another driver\n"
    assert calls(*LOCAL, *words, "--", "true") == (125, b"", line.encode())
    assert calls("ps", "-a", "-q") == (0, b"", b"")


@pytest.mark.usefixtures("heeding_hangup")
def test_no_signal_is_ignored_or_held_back() -> None:
    said = local("--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    masks = [int(line.split()[1], 16) for line in said.out.splitlines()]
    assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]  # 32 and 33 are the C library's own


def test_quit_ends_the_process_and_not_its_record() -> None:
    with under(*LOCAL, "--", "sh", "-c", "echo up; exec sleep 600") as call:
        call.hear(b"up\n")
        call.send(signal.SIGQUIT)
        said = warned(call.end())
    assert said[:2] == (131, b"up\n")
    assert told(said) == "killed/user, exit code 131, signal QUIT"


def test_nohup() -> None:
    script = "trap 'exit 4' USR1; echo up; while :; do sleep 0.05; done"
    words = (*LOCAL, "--", "sh", "-c", script)
    with under(*words, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as call:
        call.hear(b"up\n")
        call.send(signal.SIGHUP)
        call.send(signal.SIGUSR1)  # heard after the other, if that is heard at all
        assert warned(call.end())[:2] == (4, b"up\n")
    assert [kind for kind in kinds() if kind.endswith("requested")] == ["signal-requested"]


def test_no_command() -> None:
    assert calls(*LOCAL) == (125, b"", b"calls: COMMAND: no command given\n")


def test_the_command_is_a_list(tmp_path: Path) -> None:
    words = ["two words", "", "$HOME", "new\nline", "--timeout", "--", "été"]
    printed = "".join(f"{word}\0" for word in words).encode()
    assert local("--workdir", str(tmp_path), "--", "printf", "%s\\0", *words) == (0, printed, b"")


def test_folder_and_variables(tmp_path: Path) -> None:
    script = 'pwd; echo "$A|$GIVEN"; echo "$CALL_LEDGER_CALL" >&2'
    said = local("-w", str(tmp_path), "-e", "A=1 2", "--", "sh", "-c", script, GIVEN="inherited")
    assert said == (0, f"{tmp_path}\n1 2|inherited\n".encode(), f"{shown()['id']}\n".encode())


def test_no_such_folder(tmp_path: Path) -> None:
    said = calls(*LOCAL, "-w", f"{tmp_path}/nosuch", "--", "true")
    assert said[:2] == (125, b"")
    assert told(said) == f"error/create-refused: {tmp_path}/nosuch: no such folder"


def test_every_byte_of_input_and_output() -> None:
    data = bytes(range(256)) + random.Random(1).randbytes(3 * 2**20)
    said = local("-i", "--log-limit", "16m", "--", "sh", "-c", "tee /dev/stderr", stdin=data)
    digests = {hashlib.sha256(found).digest() for found in (data, said.out, said.err, kept(1), kept(2))}
    assert (said.status, len(digests)) == (0, 1)


def test_without_i_there_is_no_input() -> None:
    assert local("--", "cat", stdin=b"not for it") == (0, b"", b"")


def test_input_as_it_comes() -> None:
    with under(*LOCAL, "-i", "--", "cat", stdin=subprocess.PIPE) as call:
        assert call.process.stdin is not None
        for line in (b"one\n", b"two\n"):
            call.process.stdin.write(line)
            call.hear(line)
        assert warned(call.end()) == (0, b"one\ntwo\n", b"")


def test_a_reader_that_goes_away_ends_the_call() -> None:
    words = running.shell(f'"$@" {" ".join(LOCAL)} -- yes | head -n 1')
    done = subprocess.run(words, capture_output=True, timeout=running.LIMIT, check=False)
    assert done.stdout == b"y\n"
    until(settled, "the end of the call")
    assert verdict()[:2] == ("cancelled", "user")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["cancel"], 130, "cancelled/user, exit code 0"),
        (["kill", "-s", "TERM"], 143, "killed/user, exit code 0, signal TERM"),
        (["kill"], 137, "killed/user, exit code 137, signal KILL"),
    ],
)
def test_ended_from_elsewhere(words: list[str], status: int, line: str) -> None:
    with under(*LOCAL, "--", "sh", "-c", QUIET) as call:
        call.hear(b"up\n")
        assert calls(*words, "@last") == (0, b"@last\n", b"")
        said = call.end()
    assert said[:2] == (status, b"up\n")
    assert told(said) == line


def test_ctrl_c() -> None:
    with under(*LOCAL, "--", "sh", "-c", QUIET, start_new_session=True) as call:
        call.hear(b"up\n")
        os.killpg(call.process.pid, signal.SIGINT)
        said = call.end()
    assert said[:2] == (130, b"up\n")
    assert told(said) == "cancelled/user, exit code 0"


def test_json() -> None:
    said = local("--json", "--name", "described", "--", "sh", "-c", "exit 3")
    assert said[:2] == (3, b"")
    assert json.loads(said.err) == shown("described")


def test_detached(tmp_path: Path) -> None:
    said = local("-d", "-w", str(tmp_path), "--", "sh", "-c", STAY)
    uid = shown()["id"]
    assert said == (0, f"{uid}\n".encode(), b"")
    assert shown()["state"] == "running"
    (tmp_path / "open").touch()
    assert calls("wait", uid) == (0, b"4\n", b"")
    until(settled, "the end of the call")
    assert calls("logs", uid) == (0, b"up\ndone\n", b"")


@pytest.mark.parametrize("status", [0, 3])
def test_whoever_ignores_that_children_end_gets_the_exit_status_all_the_same(status: int) -> None:
    ignoring = partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
    with under(*LOCAL, "--", "sh", "-c", f"exit {status}", preexec_fn=ignoring) as call:
        assert warned(call.end()) == (status, b"", b"")
    assert verdict() == ("error" if status else "success", "exit", status)


def test_output_that_was_lost_is_no_success() -> None:
    with Path("/dev/full").open("wb") as full, under(*LOCAL, "--", "echo", "hi", stdout=full) as call:
        said = warned(call.end())
    assert said.err.startswith(b"calls: the output cannot be passed on: No space left on device\n")
    assert said.status == (125 if verdict()[0] == "success" else 130)  # it may have ended before we could cancel it


def test_detached_it_lets_go_of_what_it_was_given(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with under(*LOCAL, "-d", "-w", str(tmp_path), "--", "sh", "-c", STAY, pass_fds=(writer,)) as call:
        os.close(writer)
        assert call.end().status == 0
        assert os.read(reader, 1) == b"", "nobody has the other end any more"
    os.close(reader)
    (tmp_path / "open").touch()
    until(settled, "its end")


def test_the_third_interrupt_ends_a_command_whose_output_nobody_reads() -> None:
    with under(*LOCAL, "--", "yes") as call:
        call.hear(b"y\n")
        until(lambda: "started" in kinds(), "the start to be recorded")
        for kind in ("cancel-requested", "kill-requested", None):
            call.send(signal.SIGINT)
            if kind is not None:
                until(lambda kind=kind: kind in kinds(), kind)  # type: ignore[misc]
        assert call.process.wait(LIMIT) == 125
    until(settled, "its recovery")
    assert verdict()[0] in ("killed", "error")


SOON = """
import json, os, threading, time
from calls.cli import conductor
from machine.spec import Spec

submit, running = conductor.Runner.submit_spec, threading.Event()

def submit_slowly(runner, spec, output, started):
    future = submit(runner, spec, output, lambda: (running.set(), started()))
    running.wait()
    time.sleep(0.1)
    return future

conductor.Runner.submit_spec = submit_slowly
spec = Spec.parse(driver="local", command=["true"]).asked()
orders, order = os.pipe()
os.write(order, json.dumps(dict(ledger=None, spec=spec, detach=True, json=False, terminal=False)).encode())
os.close(order)
raise SystemExit(conductor.main(orders, os.dup(1)))
"""


def test_detached_and_running_before_its_id_is_known() -> None:
    done = subprocess.run([sys.executable, "-c", SOON], capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, WARNING)
    assert done.stdout.decode() == f"{shown()['id']}\n"
    assert verdict() == ("success", "exit", 0)


def test_detached_but_not_found() -> None:
    said = local("-d", "--", "nosuch")
    assert said[:2] == (127, b"")
    assert told(said) == "error/start-not-found: nosuch: no such file or command"


def test_killing_the_command_ends_neither_the_call_nor_its_record(tmp_path: Path) -> None:
    with under(*LOCAL, "-w", str(tmp_path), "--", "sh", "-c", STAY) as call:
        call.hear(b"up\n")
        call.send(signal.SIGKILL)
        assert call.process.wait(running.LIMIT) == -signal.SIGKILL
        (tmp_path / "open").touch()
        assert call.end().out == b"up\ndone\n"
    until(settled, "the end of the call")
    assert verdict() == ("error", "exit", 4)


def test_killing_the_recorder_leaves_what_it_had_written(tmp_path: Path) -> None:
    with under(*LOCAL, "-w", str(tmp_path), "--", "sh", "-c", STAY) as call:
        call.hear(b"up\n")
        until(lambda: "started" in kinds(), "the start to be recorded")
        os.kill(running.recorder(), signal.SIGKILL)
        said = warned(call.end())
    (tmp_path / "open").touch()
    line = b"calls: the recording process was killed; another one takes over what it had begun\n"
    assert said == (125, b"up\n", line)
    assert kinds()[:3] == ["submitted", "prepared", "started"]
    until(settled, "its recovery")
    assert verdict() == ("error", "lost", None)  # a parent's death takes the exit code along


def test_a_recorder_that_was_killed_before_it_knew_of_the_call(tmp_path: Path, ledger: Path) -> None:
    (tmp_path / "docker.py").write_text("import os; os.kill(os.getpid(), 9)")  # it loads that first
    line = b"calls: the recording process was killed; another one takes over what it had begun\n"
    assert calls("run", "busybox", "true", PYTHONPATH=str(tmp_path)) == (125, b"", line)
    assert not ledger.exists()


def test_an_interrupt_before_there_is_a_call_ends_the_command_without_a_word(tmp_path: Path, ledger: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    assert calls(*LOCAL, "--", "true", PYTHONPATH=str(tmp_path)) == (-signal.SIGINT, b"", b"")
    assert not ledger.exists()
