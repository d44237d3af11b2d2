"""`calls run -t` and `calls exec -t`: a terminal in the container, and ours typed to it, raw only meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest
import running
from running import IMAGE, LIMIT, RUN, calls, kept, kinds, recorder, run, shown, until, verdict
from terminals import Terminal, opened

import calls as library

pytestmark = pytest.mark.engine

TYPED = ("sh", "-c", "PS1='$ ' exec sh")
"""A shell to be typed to, whose prompt is not that of any other."""
PROMPT = b"$ \x1b[6n"  # it asks where the cursor is, and needs no answer
ECHO = "echo up; while read line; do echo got $line; done"


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal of 33 rows and 99 columns."""
    with opened() as terminal:
        yield terminal


def converse(terminal: Terminal) -> None:
    """What is the same in a call, and in another command: with a shell, of which the prompt is not read yet."""
    terminal.hear(PROMPT)
    assert terminal.raw
    terminal.type(b"echo on $(tty)\r")
    terminal.hear(b"\r\non /dev/pts/0\r\n" + PROMPT)  # of a new size it tells with a prompt more
    terminal.type(b"until stty size | grep '^33 99'; do sleep 0.05; done; echo first\r")
    terminal.hear(b"\r\n33 99\r\nfirst\r\n")
    terminal.resize(20, 50)
    terminal.type(b"until stty size | grep '^20 50'; do sleep 0.05; done; echo second\r")
    terminal.hear(b"\r\n20 50\r\nsecond\r\n")
    terminal.type(b"sh -c \"echo asl''eep; exec sleep 600\"\r")
    terminal.hear(b"asleep\r\n")
    terminal.type(b"\x03")
    terminal.hear(PROMPT)
    terminal.type(b"\x10\x11")  # by which an engine would let go of the terminal
    terminal.type(b"\x15exit 3\r")


# Ours, typed to that of the container.


def test_a_shell_that_is_typed_to(terminal: Terminal) -> None:
    with terminal.under(*RUN, "-it", IMAGE, *TYPED) as process:
        converse(terminal)
        assert process.wait(LIMIT) == 3
    assert verdict() == ("error", "exit", 3)
    assert (kinds()[-2:], shown()["spec"]["tty"]) == (["failed", "cleaned"], True)
    assert "cancel-requested" not in kinds()
    assert b"first\r\n" in kept(1)
    assert (kept(2), b"first\r\n" in calls("logs", "@last").out) == (b"", True)


def test_another_command_that_is_typed_to(terminal: Terminal) -> None:
    assert calls(*RUN, "-d", IMAGE, "sleep", "600").status == 0
    with terminal.under("exec", "-it", "@last", *TYPED) as process:
        converse(terminal)
        assert process.wait(LIMIT) == 3
    (executed,) = [event["data"] for event in running.events() if event["kind"] == "executed"]
    assert executed["exit_code"] == 3
    assert calls("kill", "@last").status == 0
    until(running.settled, "its end")


def test_the_modes_come_back_when_the_recorder_is_killed(terminal: Terminal) -> None:
    with terminal.under(*RUN, "-it", IMAGE, "sh", "-c", ECHO) as process:
        terminal.hear(b"up\r\n")
        until(lambda: terminal.raw, "the terminal to be raw")
        os.kill(recorder(), signal.SIGKILL)
        assert process.wait(LIMIT) == 125
        assert not terminal.raw
        terminal.hear(b"calls: the recording process was killed; another one takes over what it had begun\r\n")
    until(lambda: "adopted" in kinds(), "its successor")
    assert calls("kill", "@last").status == 0
    until(running.settled, "its end")
    assert kept(1) == b"up\r\n"


def test_the_modes_come_back_when_a_signal_ends_it(terminal: Terminal) -> None:
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with terminal.under(*RUN, "-it", IMAGE, "sh", "-c", script) as process:
        terminal.hear(b"up\r\n")
        until(lambda: terminal.raw, "the terminal to be raw")
        process.send_signal(signal.SIGTERM)
        terminal.hear(b"calls: cancelled/user, exit code 0; calls show ")
        process.wait(LIMIT)
    assert verdict() == ("cancelled", "user", 0)


def test_what_never_ran_leaves_the_terminal_alone(terminal: Terminal) -> None:
    with terminal.under(*RUN, "-it", IMAGE, "/nosuch") as process:
        terminal.hear(b"calls: error/start-not-found: ")
        assert process.wait(LIMIT) == 127


def test_each_line_of_a_raw_terminal_begins_at_its_left(terminal: Terminal) -> None:
    """What we say meanwhile, as well: that somebody else has paused it, say, is no reason for a staircase."""
    code = "from calls.cli.conductor import _say; from calls.cli.terminal import Modes\nwith Modes() as modes:\n"
    code += "    _say('cooked'); modes.make_raw(); _say('raw')\n"
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.theirs)
    assert subprocess.run([sys.executable, "-c", code], check=False, **streams).returncode == 0
    assert terminal.hear(b"raw\r\n") == b"cooked\r\nraw\r\n"


# One without our input, or without ours at all.


def test_all_output_of_a_terminal_is_one_stream() -> None:
    said = run("-t", IMAGE, "sh", "-c", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo out; echo err >&2; exit 4")
    assert said == (4, b"out\r\nerr\r\n", b"")
    assert (kept(1), kept(2)) == (b"out\r\nerr\r\n", b"")
    assert calls("logs", "@last").out == said.out


def test_without_our_input_ctrl_c_is_ours_and_the_size_still_follows(terminal: Terminal) -> None:
    sized = "until stty size 2>&1 | grep '^{}'; do sleep 0.05; done"
    script = f"trap 'exit 0' TERM; {sized.format('33 99')}; {sized.format('20 50')}; while :; do sleep 0.05; done"
    with terminal.under(*RUN, "-t", IMAGE, "sh", "-c", script) as process:
        terminal.hear(b"33 99\r")
        assert not terminal.raw
        terminal.resize(20, 50)
        terminal.hear(b"20 50\r")
        terminal.type(b"\x03")
        assert process.wait(LIMIT) == 130
    assert verdict() == ("cancelled", "user", 0)


def test_in_python() -> None:
    heard: list[tuple[int, bytes]] = []
    with library.Runner() as runner:
        call = runner.run(
            IMAGE, ["tty"], tty=True, network="none", output=lambda stream, data: heard.append((stream, data))
        )
    assert (call.state, {stream for stream, _ in heard}) == ("success", {1})
    assert b"".join(data for _, data in heard) == b"/dev/pts/0\r\n"


def orphaned(script: str) -> str:
    """A detached call with a terminal whose recorder was killed when it had written a line; -> its id."""
    said = calls(*RUN, "-d", "-t", IMAGE, "sh", "-c", script)
    assert said.status == 0, said.err
    until(lambda: kept(1) == b"one\r\n", "its first line")
    os.kill(recorder(), signal.SIGKILL)
    until(lambda: json.loads(calls("show", "@last", "--json").out)["orphan"], "the death of its recorder to show")
    return said.out.decode().strip()


def test_whoever_takes_it_over_reads_its_log_as_it_is() -> None:
    wait = "while [ ! -e /{} ]; do sleep 0.05; done"
    uid = orphaned(f"echo one; {wait.format('go')}; echo two; {wait.format('end')}; printf three; exit 5")
    assert calls("recover").status == 0
    assert calls("exec", uid, "touch", "/go").status == 0
    until(lambda: kept(1) == b"one\r\ntwo\r\n", "its second line, while it runs")
    assert calls("exec", uid, "touch", "/end").status == 0
    assert calls("wait", uid).out == b"5\n"
    until(running.settled, "its end")
    assert "adopted" in kinds()
    assert (kept(1), kept(2)) == (b"one\r\ntwo\r\nthree", b"")
    assert calls("logs", uid).out == b"one\r\ntwo\r\nthree"


def test_what_had_ended_meanwhile_is_read_as_it_is(engine: docker.APIClient) -> None:
    uid = orphaned("echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two")
    engine.exec_start(engine.exec_create(uid, ["touch", "/go"])["Id"])
    engine.wait(uid)
    assert calls("recover").status == 0
    until(running.settled, "its end")
    assert (verdict(), kept(1), kept(2)) == (("success", "exit", 0), b"one\r\ntwo\r\n", b"")


def test_another_command_with_a_terminal_and_no_input() -> None:
    assert calls(*RUN, "-d", IMAGE, "sleep", "600").status == 0
    assert calls("exec", "-t", "@last", "sh", "-c", "tty; echo err >&2; exit 4") == (4, b"/dev/pts/0\r\nerr\r\n", b"")
    assert calls("kill", "@last").status == 0
    until(running.settled, "its end")


@pytest.mark.parametrize("words", [(*RUN, "-it", IMAGE, "true"), ("exec", "-it", "@last", "true")])
def test_what_is_typed_to_a_terminal_comes_from_one(words: tuple[str, ...]) -> None:
    line = b"calls: --tty: the input device is not a terminal (leave out --tty, or --interactive)\n"
    assert calls(*words) == (125, b"", line)
