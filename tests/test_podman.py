"""Podman as an engine: the contract of every driver, and verdicts. What it cannot: docs/drivers.md."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import test_driver_contract
import test_driver_recover
import test_lifecycle_drivers
from contract import STAYS, Stage
from contract import docker as docker_stage
from private_podman import client, missing, private_podman
from running import ARMED, LIMIT, STUBBORN
from test_driver_contract import running

import calls
from calls.slots import CallFuture
from driver.protocol import Container, ForeignSignal, OutputEnded
from ledger.read import Reader
from machine.errors import DriverError

__all__ = ["running"]
pytestmark = pytest.mark.engine

IMAGE = "busybox"
OTHERWISE = {
    "test_signals_of_the_time_between_are_reported",
    "test_processes_are_named_and_numbered",
    "test_what_was_taken_over_can_be_paused_too",
}
"""Promises that Podman does not let us keep: what is so instead is tested below."""
_PROMISES = [test_driver_contract, test_driver_recover, test_lifecycle_drivers]
globals().update(
    {
        name: test
        for module in _PROMISES
        for name, test in vars(module).items()
        if name.startswith("test_") and name not in OTHERWISE and "stage" in inspect.signature(test).parameters
    }
)  # the same tests, with the stage of this module


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the Podman of these tests listens."""
    if why := missing():
        pytest.skip(why)
    engine = docker.from_env()
    image = b"".join(engine.api.get_image(IMAGE))
    engine.close()
    with private_podman(image) as url:
        yield url


@pytest.fixture(autouse=True)
def host(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is the engine, and has no container left afterwards."""
    monkeypatch.setenv("DOCKER_HOST", url)
    yield
    with client(url) as engine:
        left = engine.containers(all=True)
        for container in left:
            engine.remove_container(container, force=True)
    assert left == []


@pytest.fixture
def stage(host: None) -> Iterator[Stage]:
    """The docker driver on it."""
    with docker_stage() as stage:
        yield stage


Verdict = tuple[str, str, int | None]


def run(runner: calls.Runner, *words: str, **options: Any) -> Verdict:
    return verdict(runner.run(IMAGE, words, **{"network": "none", **options}))


def verdict(call: calls.Call) -> Verdict:
    return call.state, call.reason, call.exit_code


def begin(runner: calls.Runner, script: str, **options: Any) -> CallFuture:
    """A call under way; returns when it has written something."""
    first = threading.Event()
    future = runner.submit(IMAGE, ["sh", "-c", script], network="none", output=lambda *_: first.set(), **options)
    assert first.wait(LIMIT), future
    return future


def end(future: CallFuture) -> Verdict:
    return verdict(future.result(LIMIT))


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 137", 137)])
def test_exit_codes(runner: calls.Runner, script: str, code: int) -> None:
    assert run(runner, "sh", "-c", script) == ("error" if code else "success", "exit", code)


def test_a_missing_command(runner: calls.Runner) -> None:
    assert run(runner, "nosuch-command")[:2] == ("error", "start-not-found")


def test_a_missing_image(runner: calls.Runner) -> None:
    call = runner.run("localhost:1/nosuch:1", ["true"], pull="never")
    assert (verdict(call), call.never_ran) == (("error", "pull-missing", None), True)


def test_a_registry_that_nobody_answers_for(runner: calls.Runner) -> None:
    assert verdict(runner.run("localhost:1/nosuch:1", ["true"])) == ("error", "pull-unreachable", None)


def test_timeout(runner: calls.Runner) -> None:
    assert run(runner, "sh", "-c", ARMED, timeout="5s") == ("timeout", "deadline", 0)
    assert run(runner, "sh", "-c", STUBBORN, timeout="5s", stop_timeout="1s") == ("timeout", "deadline", 137)


def test_cancel(runner: calls.Runner) -> None:
    future = begin(runner, ARMED)
    runner.cancel(future.id)
    assert end(future) == ("cancelled", "user", 0)


def test_kill(runner: calls.Runner) -> None:
    future = begin(runner, STUBBORN)
    runner.kill(future.id)
    assert end(future) == ("killed", "user", 137)


def test_killed_by_somebody_else_which_the_exit_code_tells(runner: calls.Runner, url: str) -> None:
    future = begin(runner, STUBBORN)
    with client(url) as engine:
        engine.kill(future.id, "KILL")
    call = future.result(LIMIT)
    assert (verdict(call), call.signal) == (("killed", "external", 137), "KILL")


def test_a_message_of_somebody_else_is_no_end(runner: calls.Runner, url: str) -> None:
    future = begin(runner, "trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done")
    with client(url) as engine:
        engine.kill(future.id, "USR1")
    assert end(future) == ("error", "exit", 5)


def test_removed_by_somebody_else_is_never_a_success(runner: calls.Runner, url: str) -> None:
    future = begin(runner, STUBBORN)
    with client(url) as engine:
        engine.remove_container(future.id, force=True)
    call = future.result(LIMIT)
    assert call.state in ("killed", "error")
    assert call.exit_code in (137, None)


def test_out_of_memory_is_likely_where_a_sample_was_near_the_limit(runner: calls.Runner) -> None:
    feed = "head -c 56000000 /dev/zero; while head -c 200000 /dev/zero; do sleep 0.05; done"
    grow = f"mkfifo /tmp/pipe; ({feed}) >/tmp/pipe & exec tail </tmp/pipe"
    call = runner.run(IMAGE, ["sh", "-c", grow], network="none", memory="64m", sample="100ms")
    assert (verdict(call), call.oom) == (("killed", "oom", 137), "likely")


def test_sixteen_mebibytes_of_output_arrive_whole(runner: calls.Runner) -> None:
    got = bytearray()
    script = "yes 0123456789abcde | head -c 16777216"
    assert run(runner, "sh", "-c", script, output=lambda _, data: got.extend(data)) == ("success", "exit", 0)
    assert got == b"0123456789abcde\n" * 2**20


def test_health_that_nobody_looks_after_is_waited_for_no_longer_than_said(runner: calls.Runner) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd looks after it")
    options = {"health_cmd": "true", "health_interval": "1s", "health_timeout": "5s"}
    assert run(runner, "sh", "-c", ARMED, **options) == ("timeout", "health", 0)


def test_samples_and_totals(runner: calls.Runner, ledger: Path) -> None:
    assert run(runner, "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", sample="100ms")[0] == "success"
    with Reader(ledger) as reader:
        query = "SELECT count(*) > 0, max(cpu_total_ns) > 0, max(mem_usage_bytes) > 0 FROM sample"
        assert list(reader.query(query)[1]) == [(1, 1, 1)]


def test_a_signal_of_the_time_between_is_told_by_the_exit_code(stage: Stage, url: str) -> None:
    container, ear = stage.prepare(STAYS), stage.ear()
    container.start()
    stage.driver.close()
    with client(url) as engine:
        engine.kill(container.preparation.container, "KILL")
        engine.wait(container.preparation.container)
    heir = stage.successor().found(STAYS, ear)
    heir.rejoin()
    ear.until(OutputEnded)
    assert ear.until(ForeignSignal).signal == "KILL"
    heir.remove()


def test_the_processes_of_a_paused_container_are_not_named(running: Container) -> None:
    (process,) = running.processes()
    assert (process.pid, process.command) == (1, "sleep 600")
    running.pause()
    with pytest.raises(DriverError, match="Podman does not name the processes of a paused container"):
        running.processes()


def test_the_driver_says_that_totals_are_not_exact(stage: Stage) -> None:
    found = stage.driver.describe()
    assert (found["totals"], found["url"]) == (False, os.environ["DOCKER_HOST"])
