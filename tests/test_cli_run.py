"""`calls run` on the real engine: exit status, output and messages, exactly."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import running
from running import ARMED, IMAGE, RUN, STAY, calls, kinds, run, settled, shown, told, under, until, verdict

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient) -> Iterator[None]:
    with running.nothing_left(engine):
        yield


@pytest.mark.parametrize("status", [0, 3, 125, 137, 255])
def test_the_exit_status_is_the_containers(status: int) -> None:
    assert run(IMAGE, "sh", "-c", f"exit {status}") == (status, b"", b"")


def test_a_timeout() -> None:
    said = run("--timeout", "300ms", "--stop-timeout", "100ms", IMAGE, "sleep", "60")
    assert said[:2] == (124, b"")
    assert told(said) == "timeout/deadline, exit code 137"


def test_a_missing_image() -> None:
    said = run("--pull", "never", "localhost:1/nosuch:1", "true")
    assert said[:2] == (125, b"")
    assert told(said) == "error/pull-missing: No such image: localhost:1/nosuch:1 (and --pull never was given)"
    assert kinds() == ["submitted", "failed", "cleaned"]


def test_an_unreachable_registry() -> None:
    said = run("localhost:1/nosuch:1", "true")
    assert said[:2] == (125, b"")
    assert told(said).startswith("error/pull-unreachable: ")


def test_an_option_that_the_engine_refuses() -> None:
    said = run("--volume", "/tmp:/x:sometimes", IMAGE, "true")
    assert said[:2] == (125, b"")
    assert told(said) == "error/create-refused: invalid mode: sometimes"


def test_a_command_that_cannot_be_executed() -> None:
    said = run(IMAGE, "/etc")
    assert said[:2] == (126, b"")
    assert told(said).startswith("error/start-not-executable: ")
    assert '"/etc": permission denied' in told(said)


def test_a_command_that_is_not_found() -> None:
    said = run(IMAGE, "nosuch")
    assert said[:2] == (127, b"")
    assert told(said).startswith("error/start-not-found: ")
    assert '"nosuch": executable file not found' in told(said)


def test_out_of_memory() -> None:
    said = run("--memory", "16m", IMAGE, "tail", "/dev/zero")
    assert said[:2] == (137, b"")
    assert told(said) == "killed/oom, exit code 137, signal KILL"


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 137, "killed/user, exit code 137, signal KILL"),
        (["-s", "TERM"], 143, "killed/user, exit code 0, signal TERM"),
    ],
)
def test_killed_from_elsewhere(words: list[str], status: int, line: str) -> None:
    with under(*RUN, IMAGE, "sh", "-c", ARMED) as call:
        call.hear(b"up\n")
        assert calls("kill", *words, "@last") == (0, b"@last\n", b"")
        said = call.end()
    assert said[:2] == (status, b"up\n")
    assert told(said) == line


def test_options_end_at_the_image() -> None:
    script = 'echo --timeout "$0" "$@"'
    said = run(IMAGE, "sh", "-c", script, "--env", "X", "--memory", "1k", "--", "-d", "--json")
    assert said == (0, b"--timeout --env X --memory 1k -- -d --json\n", b"")


def test_the_command_is_a_list() -> None:
    words = [
        "two words",
        "",
        "  ",
        "'single' \"double\" `back`",
        "$HOME \\n",
        "new\nline",
        "tab\t",
        "*",
        "été 函数 🐳",
        "",
    ]
    said = run(IMAGE, "sh", "-c", 'printf "%s\\0" "$@"', "sh", *words)
    assert said == (0, "".join(f"{word}\0" for word in words).encode(), b"")
    assert shown()["spec"]["command"][4:] == words


def test_without_a_command_the_images_own() -> None:
    assert run(IMAGE) == (0, b"", b"")
    assert "command" not in shown()["spec"]


def test_json_describes_the_call_on_stderr() -> None:
    said = run("--json", "--name", "described", IMAGE, "sh", "-c", "echo out; exit 3")
    assert said[:2] == (3, b"out\n")
    assert said.err.count(b"\n") == 1
    described = json.loads(said.err)
    assert described == shown("described")
    assert (described["state"], described["reason"], described["exit_code"]) == ("error", "exit", 3)


def test_json_of_what_never_ran() -> None:
    said = run("--json", IMAGE, "nosuch")
    assert said[:2] == (127, b"")
    assert json.loads(said.err) == shown()


def test_the_container_is_removed_or_kept(engine: docker.APIClient) -> None:
    assert run(IMAGE, "true").status == 0
    assert calls("show", "@last", "--json").status == 0
    with pytest.raises(docker.errors.NotFound):
        engine.inspect_container(shown()["id"])
    assert run("--keep", IMAGE, "sh", "-c", "exit 6").status == 6
    uid = shown()["id"]
    try:
        state = engine.inspect_container(uid)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 6)
        assert kinds()[-1] == "cleaned"
        assert running.groups(uid) == []
    finally:
        running.discard(engine, uid)


def test_rm_is_as_it_is_without() -> None:
    assert run("--rm", IMAGE, "sh", "-c", "exit 4") == (4, b"", b"")
    assert run("--rm", "--keep", IMAGE, "true") == (125, b"", b"calls: --rm: contradicts --keep\n")


def test_detached(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    said = run("-d", "--volume", f"{gate}:/gate", IMAGE, "sh", "-c", STAY)
    uid = shown()["id"]
    assert said == (0, f"{uid}\n".encode(), b"")
    assert (shown()["state"], os.getsid(running.recorder())) == ("running", running.recorder())
    (gate / "open").touch()
    assert calls("wait", uid) == (0, b"4\n", b"")
    until(settled, "the container to be removed")
    assert verdict() == ("error", "exit", 4)
    assert calls("logs", uid) == (0, b"up\ndone\n", b"")


def test_detached_and_cancelled_by_a_signal_to_the_recorder() -> None:
    run("-d", IMAGE, "sh", "-c", ARMED)
    until(lambda: running.kept(1) == b"up\n", "its first line")
    os.kill(running.recorder(), signal.SIGTERM)
    until(settled, "the end of the call")
    assert verdict() == ("cancelled", "user", 0)


def test_detached_but_not_found() -> None:
    said = run("-d", IMAGE, "nosuch")
    assert said[:2] == (127, b"")
    assert told(said).startswith("error/start-not-found: ")
