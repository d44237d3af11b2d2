"""The verdict table on the real engine, each row. What the ancestors mixed up must stay apart."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import docker
import pytest
from held import Ahead, time_out
from running import ARMED, LIMIT, until_kind

import calls
from driver.docker import DockerDriver
from driver.protocol import Container
from ledger.read import Reader
from machine.units import SECOND

pytestmark = pytest.mark.engine

IMAGE = "busybox"
HEALTH: dict[str, Any] = {"health_interval": "100ms", "health_retries": 2, "stop_timeout": 0}


class Under:
    """A call under way, and its container behind the runner's back."""

    def __init__(self, runner: calls.Runner, engine: docker.APIClient, words: list[str], **options: Any) -> None:
        """Returns when the process has written its first line (every script here begins with one)."""
        first = threading.Event()
        self.runner = runner
        self.engine = engine
        self.future = runner.submit(IMAGE, words, network="none", output=lambda *_: first.set(), **options)
        assert first.wait(LIMIT), self.future

    def end(self) -> calls.Call:
        """How it ended."""
        assert not wait([self.future], LIMIT).not_done
        return self.future.result()


@pytest.fixture
def runner(ledger: Path, clock: Ahead) -> Iterator[calls.Runner]:
    """A runner whose deadlines can be brought near."""
    with calls.Runner(ledger, clock=clock) as runner:
        yield runner


@pytest.fixture
def under(runner: calls.Runner, engine: docker.APIClient) -> Callable[..., Under]:
    """Starts a call and waits for its first line."""
    return lambda *words, **options: Under(runner, engine, list(words), **options)


@pytest.fixture(autouse=True)
def nothing_left(engine: docker.APIClient, runner: calls.Runner) -> Iterator[None]:
    """Every call's container is gone, and so is its control group."""
    yield
    runner.close()
    left = engine.containers(all=True, filters={"label": f"call-ledger.ledger={runner.ledger.id}"})
    assert left == []
    assert not [
        path for root in Path("/sys/fs/cgroup").glob("*") for path in root.glob("call-*") if _ours(path, runner)
    ]


def _ours(path: Path, runner: calls.Runner) -> bool:
    with Reader(runner.ledger.path) as reader:
        return any(path.name == f"call-{uid}" for (uid,) in reader.query("SELECT uid FROM call")[1])


def run(runner: calls.Runner, *words: str, **options: Any) -> tuple[str, str, int | None, str | None, str | None, bool]:
    """state, reason, exit code, signal, oom, never_ran."""
    call = runner.run(IMAGE, words, **{"network": "none", **options})
    return verdict(call)


def verdict(call: calls.Call) -> tuple[str, str, int | None, str | None, str | None, bool]:
    """The verdict without id and message."""
    return call.state, call.reason, call.exit_code, call.signal, call.oom, call.never_ran


def test_exit_zero(runner: calls.Runner) -> None:
    assert run(runner, "true") == ("success", "exit", 0, None, None, False)


def test_exit_nonzero(runner: calls.Runner) -> None:
    assert run(runner, "sh", "-c", "exit 3") == ("error", "exit", 3, None, None, False)


def test_a_program_that_itself_exits_137(runner: calls.Runner) -> None:
    assert run(runner, "sh", "-c", "exit 137") == ("error", "exit", 137, None, None, False)


def test_a_hundred_and_thirty_seven_under_a_memory_limit_is_not_out_of_memory(runner: calls.Runner) -> None:
    assert run(runner, "sh", "-c", "exit 137", memory="32m") == ("error", "exit", 137, None, None, False)


def test_image_missing(runner: calls.Runner) -> None:
    call = runner.run("localhost:1/nosuch:1", ["true"], pull="never")
    assert verdict(call) == ("error", "pull-missing", None, None, None, True)


def test_registry_unreachable(runner: calls.Runner) -> None:
    call = runner.run("localhost:1/nosuch:1", ["true"])
    assert verdict(call) == ("error", "pull-unreachable", None, None, None, True)


def test_create_refused(runner: calls.Runner) -> None:
    call = runner.run(IMAGE, ["true"], volume=["/tmp:/x:sometimes"])
    assert verdict(call) == ("error", "create-refused", None, None, None, True)
    assert call.message
    assert "{" not in call.message


def test_start_refused(runner: calls.Runner) -> None:
    assert run(runner, "true", sysctl={"net.nosuch": "1"})[:2] == ("error", "start-refused")


def test_command_not_found(runner: calls.Runner) -> None:
    assert run(runner, "nosuch") == ("error", "start-not-found", None, None, None, True)


def test_command_not_executable(runner: calls.Runner) -> None:
    assert run(runner, "/etc") == ("error", "start-not-executable", None, None, None, True)


def test_deadline(runner: calls.Runner) -> None:
    ended = run(runner, "sleep", "60", timeout="300ms", stop_timeout="200ms")
    assert ended == ("timeout", "deadline", 137, None, None, False)


def test_deadline_of_a_program_that_ends_well_when_asked(under: Callable[..., Under], clock: Ahead) -> None:
    call = under("sh", "-c", ARMED, timeout="10m", stop_timeout="24h")
    time_out(clock, call.future.id)
    assert verdict(call.end()) == ("timeout", "deadline", 0, None, None, False)


def test_deadline_is_not_reached_by_a_program_that_is_done(runner: calls.Runner) -> None:
    assert run(runner, "true", timeout="30s")[:2] == ("success", "exit")


def test_cancelled(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", ARMED)
    call.runner.cancel(call.future.id, "enough")
    assert verdict(call.end()) == ("cancelled", "user", 0, None, None, False)


def test_killed_by_us(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "echo up; sleep 60")
    call.runner.kill(call.future.id)
    assert verdict(call.end()) == ("killed", "user", 137, "KILL", None, False)


def test_killed_by_us_with_another_signal(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", ARMED)
    call.runner.kill(call.future.id, "TERM")
    assert verdict(call.end()) == ("killed", "user", 0, "TERM", None, False)


def test_a_signal_that_is_a_message_ends_nothing(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "trap 'exit 0' USR1; echo up; while :; do sleep 0.05; done")
    call.runner.kill(call.future.id, "USR1")
    assert verdict(call.end()) == ("success", "exit", 0, None, None, False)


def test_kill_after_cancel_takes_over(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done", stop_timeout="60s")
    call.runner.cancel(call.future.id)
    call.runner.kill(call.future.id)
    assert verdict(call.end()) == ("killed", "user", 137, "KILL", None, False)


def test_out_of_memory(runner: calls.Runner) -> None:
    found = run(runner, "tail", "/dev/zero", memory="16m")
    assert (found[:4], found[5]) == (("killed", "oom", 137, "KILL"), False)
    assert found[4] in ("certain", "likely")  # engines do not always hear of it


def test_out_of_memory_of_a_child_is_a_mark_not_a_verdict(runner: calls.Runner) -> None:
    options = {"memory": "16m", "sample": "100ms"}
    for code, verdict in ((0, ("success", "exit")), (5, ("error", "exit"))):
        script = f"tail /dev/zero; sleep 1; exit {code}"
        assert run(runner, "sh", "-c", script, **options) == (*verdict, code, None, "certain", False)


def test_killed_by_somebody_else(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "echo up; sleep 60")
    call.engine.kill(call.future.id)
    assert verdict(call.end()) == ("killed", "external", 137, "KILL", None, False)


def test_stopped_by_somebody_else(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", ARMED)
    call.engine.stop(call.future.id, timeout=20)
    assert verdict(call.end()) == ("killed", "external", 0, "TERM", None, False)


def test_removed_by_somebody_else(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "echo up; sleep 60")
    call.engine.remove_container(call.future.id, force=True)
    assert verdict(call.end()) == ("killed", "external", 137, "KILL", None, False)


def test_somebody_elses_message_ends_nothing(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "trap 'exit 0' HUP; echo up; while :; do sleep 0.05; done")
    call.engine.kill(call.future.id, signal="HUP")
    assert verdict(call.end()) == ("success", "exit", 0, None, None, False)


def test_paused_by_somebody_else(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", "trap 'exit 0' HUP; echo up; while :; do sleep 0.05; done")
    call.engine.pause(call.future.id)
    call.engine.unpause(call.future.id)
    call.engine.kill(call.future.id, signal="HUP")
    assert verdict(call.end()) == ("success", "exit", 0, None, None, False)
    assert states(call.runner, call.future.id)[-4:] == ["paused", "running", "success", "success"]


def test_a_paused_call_still_meets_its_deadline(under: Callable[..., Under], clock: Ahead) -> None:
    call = under("sh", "-c", "echo up; sleep 600", timeout="10m", stop_timeout="200ms")
    call.engine.pause(call.future.id)
    time_out(clock, call.future.id)
    assert call.end().state == "timeout"


def states(runner: calls.Runner, uid: str) -> list[str]:
    """The state after each event of a call, but for what a busy machine adds: a gap between samples."""
    with Reader(runner.ledger.path) as reader:
        _, rows = reader.query("SELECT state FROM events WHERE uid = :uid AND kind <> 'gap' ORDER BY seq", {"uid": uid})
        return [state for (state,) in rows]


# Health: every ending is a different verdict, and none of them hangs.


def test_healthy_then_done(runner: calls.Runner, tmp_path: Path) -> None:
    script, gate = "until [ -e /gate/open ]; do sleep 0.05; done", [f"{tmp_path}:/gate"]
    future = runner.submit(IMAGE, ["sh", "-c", script], network="none", volume=gate, health_cmd="true", **HEALTH)
    until_kind(future.id, "healthy")
    (tmp_path / "open").touch()
    call = future.result(LIMIT)
    assert verdict(call) == ("success", "exit", 0, None, None, False)
    assert states(runner, call.id)[2:] == ["running", "health-wait", "running", "success", "success"]


def test_done_before_it_was_healthy(runner: calls.Runner) -> None:
    options = {**HEALTH, "health_interval": "30s"}
    assert run(runner, "true", health_cmd="true", **options) == ("success", "exit", 0, None, None, False)
    assert run(runner, "sh", "-c", "exit 4", health_cmd="true", **options) == ("error", "exit", 4, None, None, False)


def test_unhealthy(runner: calls.Runner) -> None:
    ended = run(runner, "sleep", "60", health_cmd="echo broken; false", **HEALTH)
    assert ended == ("error", "unhealthy", 137, None, None, False)


def test_never_healthy_in_time(runner: calls.Runner) -> None:
    options = {**HEALTH, "health_retries": 100, "health_timeout": "500ms"}
    ended = run(runner, "sleep", "60", health_cmd="false", **options)
    assert ended == ("timeout", "health", 137, None, None, False)


def test_destroyed_while_waiting_for_health(under: Callable[..., Under], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calls.watch.SETTLE", 5 * SECOND)  # however long the engine takes to remove its files
    call = under("sh", "-c", "echo up; sleep 60", health_cmd="true", **{**HEALTH, "health_interval": "30s"})
    call.engine.remove_container(call.future.id, force=True)
    assert verdict(call.end())[:3] == ("error", "destroyed", 137)


def test_cancelled_while_waiting_for_health(under: Callable[..., Under]) -> None:
    call = under("sh", "-c", ARMED, health_cmd="true", **{**HEALTH, "health_interval": "30s", "stop_timeout": LIMIT})
    call.runner.cancel(call.future.id)
    assert verdict(call.end())[:2] == ("cancelled", "user")


def test_the_images_health_check_can_be_ignored(runner: calls.Runner) -> None:
    call = runner.run(IMAGE, ["true"], network="none", no_healthcheck=True)
    assert states(runner, call.id)[2:] == ["running", "success", "success"]


def test_a_namesake_of_others_is_an_error(
    runner: calls.Runner, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fn ran whatever container had the name of the call."""
    taken = f"taken-{uuid.uuid4()}"
    monkeypatch.setattr("calls.runner.new_id", lambda: taken)
    stranger = engine.create_container(IMAGE, ["echo", "stale"], name=taken)
    try:
        call = runner.run(IMAGE, ["echo", "fresh"], network="none")
        assert verdict(call)[:2] == ("error", "create-refused")
        assert engine.inspect_container(stranger)["State"]["Status"] == "created"
    finally:
        engine.remove_container(stranger, force=True)


def test_a_call_cancelled_before_its_start_never_ran(runner: calls.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, prepared, cancelled = DockerDriver.prepare, threading.Event(), threading.Event()

    def hold(*of: Any) -> Container:
        container = prepare(*of)
        prepared.set()
        assert cancelled.wait(LIMIT)
        return container

    monkeypatch.setattr(DockerDriver, "prepare", hold)
    future = runner.submit(IMAGE, ["sleep", "60"], network="none")
    assert prepared.wait(LIMIT)
    runner.cancel(future.id)
    cancelled.set()
    assert verdict(future.result(LIMIT)) == ("cancelled", "user", None, None, None, True)
