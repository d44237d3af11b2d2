"""`calls run` on a terminal: progress there and nowhere else, and one Ctrl-C is one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
import pytest
import running
from registry import Registry, serving
from running import ARMED, IMAGE, LIMIT, RUN, STUBBORN, events, hear, kinds, run, shown, told, under, until, verdict

pytestmark = pytest.mark.engine

CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard input the terminal that controls what is executed then."""


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def far(engine: docker.APIClient) -> Iterator[Registry]:
    """A registry with an image that must be pulled."""
    with serving() as registry:
        yield registry
        with suppress(docker.errors.ImageNotFound):
            engine.remove_image(registry.image)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """-> our end of a terminal, and that of a process."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def on_terminal(ours: int, theirs: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`calls WORD...` with this terminal for everything; waits for the line `up`."""
    command = [sys.executable, "-c", CONTROLLED, *running.COMMAND, *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        try:
            hear(ours, b"up\r\n")
            yield process
        finally:
            process.kill()


def test_progress_of_a_pull_goes_to_a_terminal(far: Registry) -> None:
    far.gate.clear()
    with terminal() as (ours, theirs), under(*RUN, far.image, stderr=theirs) as call:
        line = hear(ours, b"#---")
        far.gate.set()
        line += hear(ours, b"; calls show ")
        status, out, _ = call.end()
    assert (status, out) == (127, b"")
    shown_first, *_, shown_last = line.split(b"\r\x1b[K")
    assert shown_first == b""
    assert f"\r\x1b[Kpulling {far.image} [#####".encode() in line
    assert shown_last.startswith(b"calls: error/start-not-found: ")
    assert [kind for kind in kinds() if kind != "pull-progressed"][:3] == ["submitted", "pulled", "prepared"]
    assert shown()["image_digest"] == far.digest


def test_no_progress_elsewhere(far: Registry) -> None:
    said = run(far.image)
    assert said[:2] == (127, b"")
    assert told(said).startswith("error/start-not-found: ")


def test_nothing_is_added_on_a_terminal() -> None:
    with terminal() as (ours, theirs):
        assert subprocess.run([*running.COMMAND, *RUN, IMAGE, "true"], stderr=theirs, check=False).returncode == 0
        os.write(theirs, b"nothing else")
        assert hear(ours, b"nothing else") == b"nothing else"


@pytest.mark.parametrize("options", [(), ("-i",)])
def test_ctrl_c_cancels(options: tuple[str, ...]) -> None:
    with terminal() as (ours, theirs), on_terminal(ours, theirs, *RUN, *options, IMAGE, "sh", "-c", ARMED) as process:
        os.write(ours, b"\x03")
        hear(ours, b"calls: cancelled/user, exit code 0; calls show ")
        assert process.wait(LIMIT) == 130
    assert verdict() == ("cancelled", "user", 0)
    assert [event["data"]["by"]["via"] for event in events() if "by" in event["data"]] == ["interrupt"]


@pytest.mark.parametrize("options", [(), ("-i",)])
def test_ctrl_c_again_kills(options: tuple[str, ...]) -> None:
    words = [*RUN, *options, "--stop-timeout", "10m", IMAGE, "sh", "-c", STUBBORN]
    with terminal() as (ours, theirs), on_terminal(ours, theirs, *words) as process:
        os.write(ours, b"\x03")
        until(lambda: "signalled" in kinds(), "the stop signal")
        os.write(ours, b"\x03")
        hear(ours, b"calls: killed/user, exit code 137, signal KILL; calls show ")
        assert process.wait(LIMIT) == 130
    assert kinds().count("cancel-requested") == kinds().count("kill-requested") == 1


def test_lines_that_are_typed_arrive() -> None:
    script = "echo up; read line; echo got $line; exit 5"
    with terminal() as (ours, theirs), on_terminal(ours, theirs, *RUN, "-i", IMAGE, "sh", "-c", script) as process:
        os.write(ours, b"hello\n")
        hear(ours, b"got hello\r\n")
        assert process.wait(LIMIT) == 5


def test_a_terminal_that_stops_its_background() -> None:
    """Under `stty tostop` whoever is not in the foreground is stopped when it writes: not the recorder."""
    with terminal() as (ours, theirs):
        modes = termios.tcgetattr(theirs)
        modes[3] |= termios.TOSTOP
        termios.tcsetattr(theirs, termios.TCSANOW, modes)
        with on_terminal(ours, theirs, *RUN, IMAGE, "sh", "-c", "echo up; exit 7") as process:
            assert process.wait(LIMIT) == 7


@pytest.mark.usefixtures("heeding_hangup")
def test_a_terminal_that_goes_away_ends_the_call() -> None:
    ours, theirs = pty.openpty()
    with on_terminal(ours, theirs, *RUN, IMAGE, "sh", "-c", ARMED) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(LIMIT) == 130
    until(running.settled, "the end of the call")
    assert verdict() == ("cancelled", "user", 0)
