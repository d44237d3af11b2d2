"""`calls run` under signals: what ends the command, what ends the call, and what ends neither."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import running
from running import (
    ARMED,
    IMAGE,
    RUN,
    STAY,
    STUBBORN,
    calls,
    events,
    kinds,
    run,
    settled,
    shown,
    told,
    under,
    until,
    verdict,
)

from machine.errors import CallsError

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A folder: the script STAY ends when there is a file `open` in it."""
    gate = tmp_path / "gate"
    gate.mkdir()
    return gate


def asked() -> list[tuple[str, str]]:
    """Who asked for what."""
    return [(event["kind"], event["data"]["by"]["via"]) for event in events() if "by" in event["data"]]


def recorded() -> bool:
    """Whether there is a call."""
    try:
        return bool(kinds())
    except CallsError:
        return False


@pytest.mark.usefixtures("heeding_hangup")
@pytest.mark.parametrize(
    ("number", "via"),
    [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "terminate"), (signal.SIGHUP, "terminate")],
)
def test_a_signal_cancels(number: signal.Signals, via: str) -> None:
    with under(*RUN, IMAGE, "sh", "-c", ARMED) as call:
        call.hear(b"up\n")
        call.send(number)
        said = call.end()
    assert said[:2] == (130, b"up\n")
    assert told(said) == "cancelled/user, exit code 0"
    assert (verdict(), asked()) == (("cancelled", "user", 0), [("cancel-requested", via)])


def test_what_is_neither_the_end_nor_an_interrupt_is_passed_on() -> None:
    script = "for name in QUIT USR1 USR2; do trap \"echo $name\" $name; done; trap 'exit 3' TERM; echo up; "
    with under(*RUN, IMAGE, "sh", "-c", f"{script}while :; do sleep 0.05; done") as call:
        call.hear(b"up\n")
        for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            call.send(number)
            call.hear(f"{number.name.removeprefix('SIG')}\n".encode())
        call.send(signal.SIGTERM)
        assert call.end()[:2] == (130, b"up\nQUIT\nUSR1\nUSR2\n")
    assert asked() == [*[("signal-requested", "interrupt")] * 3, ("cancel-requested", "terminate")]


def test_ctrl_c_twice_kills() -> None:
    with under(*RUN, "--stop-timeout", "10m", IMAGE, "sh", "-c", STUBBORN) as call:
        call.hear(b"up\n")
        call.send(signal.SIGINT)
        until(lambda: "signalled" in kinds(), "the stop signal")
        call.send(signal.SIGINT)
        said = call.end()
    assert said[:2] == (130, b"up\n")
    assert told(said) == "killed/user, exit code 137, signal KILL"
    assert asked() == [("cancel-requested", "interrupt"), ("kill-requested", "interrupt")]


def test_a_group_that_is_told_together_is_told_once() -> None:
    """As the terminal does it; the recorder has left the group."""
    with under(*RUN, "-i", IMAGE, "sh", "-c", ARMED, start_new_session=True) as call:
        call.hear(b"up\n")
        os.killpg(call.process.pid, signal.SIGINT)
        assert call.end()[:2] == (130, b"up\n")
    assert (verdict(), asked()) == (("cancelled", "user", 0), [("cancel-requested", "interrupt")])


def test_cancelled_from_elsewhere() -> None:
    with under(*RUN, IMAGE, "sh", "-c", ARMED) as call:
        call.hear(b"up\n")
        assert calls("cancel", "--comment", "enough", "@last") == (0, b"@last\n", b"")
        said = call.end()
    assert said[:2] == (130, b"up\n")
    assert told(said) == "cancelled/user, exit code 0"
    assert asked() == [("cancel-requested", "cli")]


def test_cancelled_before_there_is_a_process() -> None:
    """However early the signal comes, the call ends, and no container is left."""
    with under(*RUN, "--stop-timeout", "100ms", IMAGE, "sleep", "600") as call:
        until(recorded, "the call to be recorded")
        call.send(signal.SIGINT)
        call.send(signal.SIGINT)
        assert call.end().status == 130
    assert verdict()[0] in {"cancelled", "killed"}


def test_killing_the_command_ends_neither_the_call_nor_its_record(gate: Path) -> None:
    with under(*RUN, "--volume", f"{gate}:/gate", IMAGE, "sh", "-c", STAY) as call:
        call.hear(b"up\n")
        call.send(signal.SIGKILL)
        assert call.process.wait(running.LIMIT) == -signal.SIGKILL
        until(lambda: shown()["state"] == "running", "the start to be recorded")
        (gate / "open").touch()
        assert call.end() == (-signal.SIGKILL, b"up\ndone\n", b"")
    until(settled, "the end of the call")
    assert verdict() == ("error", "exit", 4)
    assert calls("logs", "@last").out == b"up\ndone\n"


def test_killing_the_recorder_leaves_what_it_had_written(engine: docker.APIClient) -> None:
    with under(*RUN, IMAGE, "sh", "-c", ARMED) as call:
        call.hear(b"up\n")
        until(lambda: "started" in kinds(), "the start to be recorded")
        os.kill(running.recorder(), signal.SIGKILL)
        said = call.end()
    line = b"calls: the recording process was killed; another one takes over what it had begun\n"
    assert said == (125, b"up\n", line)
    until(lambda: "adopted" in kinds(), "somebody to take it over")
    uid = shown()["id"]
    assert json.loads(calls("show", uid, "--json").out)["orphan"] is False
    assert engine.inspect_container(uid)["State"]["Running"]
    assert run(IMAGE, "true") == (0, b"", b"")
    assert calls("kill", uid).status == 0
    until(lambda: "cleaned" in kinds(uid), "its end")
    assert verdict(uid) == ("killed", "user", 137)
    assert calls("logs", uid).out == b"up\n"


def test_a_paused_command_is_not_a_paused_call(gate: Path) -> None:
    """Ctrl-Z stops the command; the recorder goes on, and the exit status is there when it wakes."""
    with under(*RUN, "--volume", f"{gate}:/gate", IMAGE, "sh", "-c", STAY) as call:
        call.hear(b"up\n")
        call.send(signal.SIGSTOP)
        (gate / "open").touch()
        until(settled, "the end of the call")
        call.send(signal.SIGCONT)
        assert call.end() == (4, b"up\ndone\n", b"")
