"""The rows of the fault matrix that need a real engine: one that is killed, and somebody else at the other one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from faults import LIMIT
from invariants import invariants
from private_engine import PrivateEngine, missing, private_engine
from processes import ends
from running import until

import calls
from calls.slots import CallFuture
from ledger.read import Reader

pytestmark = pytest.mark.engine

IMAGE = "busybox"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"
OBEDIENT = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def image() -> bytes:
    """The image, as a file."""
    client = docker.from_env()
    data = b"".join(client.api.get_image(IMAGE))
    client.close()
    return data


Make = Callable[[bool], PrivateEngine]


@contextmanager
def killable(image: bytes, monkeypatch: pytest.MonkeyPatch, *, live_restore: bool) -> Iterator[PrivateEngine]:
    """An engine of one's own, which calls use."""
    if (why := missing()) and not os.environ.get("CALLS_REQUIRE_ENGINE"):
        pytest.skip(why)
    assert not why, why
    with private_engine(image, live_restore=live_restore) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine


def script(runner: calls.Runner, text: str, **options: Any) -> CallFuture:
    """Begin a call; returns when it has written something."""
    first = threading.Event()
    options = {"network": "none", "output": lambda *_: first.set(), **options}
    future = runner.submit(IMAGE, ["sh", "-c", text], **options)
    until(lambda: first.is_set() or future.done(), "its first line")
    assert first.is_set(), future
    until(lambda: "started" in kinds(runner.ledger.path, future), "its start")  # output may come before the answer
    return future


def kinds(ledger: Path, future: CallFuture) -> list[str]:
    with Reader(ledger) as reader:
        return [event["kind"] for event in reader.events(reader.resolve(future.id))]


def verdict(call: calls.Call) -> tuple[str, str, int | None, str | None]:
    return call.state, call.reason, call.exit_code, call.signal


def gaps(ledger: Path, future: CallFuture, of: str = "events") -> list[dict[str, Any]]:
    with Reader(ledger) as reader:
        events = reader.events(reader.resolve(future.id))
    return [event["data"] for event in events if event["kind"] == "gap" and event["data"]["of"] == of]


def output(ledger: Path, future: CallFuture) -> bytes:
    with Reader(ledger) as reader:
        return b"".join(piece.data for piece in reader.output(reader.resolve(future.id)))


def processes(engine: PrivateEngine, *futures: CallFuture) -> list[int]:
    """The first one of each container."""
    with engine.client() as client:
        return [client.inspect_container(future.id)["State"]["Pid"] for future in futures]


def test_row_13_a_killed_engine_stops_what_it_finds_and_loses_it(
    image: bytes, ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Started again it sends TERM to every container that has outlived it, and KILL ten seconds later."""
    with killable(image, monkeypatch, live_restore=False) as engine:
        with calls.Runner(ledger) as runner:
            stubborn, obedient = script(runner, STUBBORN), script(runner, OBEDIENT)
            wait, gate = "echo up; while [ ! -e /gate/end ]; do sleep 0.05; done", [f"{tmp_path}:/gate"]
            short = script(runner, wait, volume=gate)
            failing = script(runner, f"{wait}; echo last; exit 5", volume=gate)
            pids = processes(engine, short, failing)
            engine.kill9()
            until(lambda: gaps(ledger, failing), "the gap")
            (tmp_path / "end").touch()
            assert all(map(ends, pids)), "nobody looks, and no other sign of it is left"
            engine.start()
            ended = [verdict(future.result(LIMIT)) for future in (stubborn, obedient, short, failing)]
        assert ended == [
            ("error", "engine-lost", 137, None),
            ("error", "engine-lost", 0, None),
            ("success", "exit", 0, None),
            ("error", "exit", 5, None),
        ]
        assert all(len(gaps(ledger, future)) == 2 for future in (stubborn, obedient, short, failing))
        assert len(gaps(ledger, failing, "output")) == 1, "what it wrote while there was no engine went with that"
        assert invariants(ledger) == 4
        with engine.client() as client:
            assert client.containers(all=True) == []


def test_row_14_with_live_restore_a_killed_engine_is_only_a_gap(
    image: bytes, ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with killable(image, monkeypatch, live_restore=True) as engine:
        with calls.Runner(ledger) as runner:
            wait = "while [ ! -e /gate/open ]; do sleep 0.05; done"
            waiting = script(runner, f"echo up; {wait}; echo after; exit 3", volume=[f"{tmp_path}:/gate"])
            ends_soon = "echo up; while [ ! -e /gate/end ]; do sleep 0.05; done; echo meanwhile"
            short, cancelled = script(runner, ends_soon, volume=[f"{tmp_path}:/gate"]), script(runner, OBEDIENT)
            (pid,) = processes(engine, short)
            engine.kill9()
            until(lambda: gaps(ledger, short), "the gap")
            (tmp_path / "end").touch()
            assert ends(pid)
            engine.start()
            until(lambda: len(gaps(ledger, cancelled)) == 2, "the end of the gap")
            (tmp_path / "open").touch()
            runner.cancel(cancelled.id)
            ended = [verdict(future.result(LIMIT)) for future in (waiting, short, cancelled)]
        assert ended == [("error", "exit", 3, None), ("success", "exit", 0, None), ("cancelled", "user", 0, None)]
        assert all(len(gaps(ledger, future)) == 2 for future in (waiting, short, cancelled))
        assert output(ledger, waiting) == b"up\nafter\n"
        assert len(gaps(ledger, short, "output")) == 1, "an engine reads what lives when it comes back, and only that"
        assert invariants(ledger) == 3
        with engine.client() as client:
            assert client.containers(all=True) == []


def test_row_20_what_somebody_else_restarts_is_killed(
    runner: calls.Runner, engine: docker.APIClient, ledger: Path
) -> None:
    future = script(runner, OBEDIENT)
    engine.restart(future.id, timeout=50)
    assert verdict(future.result(LIMIT)) == ("killed", "external", 0, "TERM")
    runner.close()
    assert invariants(ledger) == 1
    assert engine.containers(all=True, filters={"label": f"call-ledger.ledger={runner.ledger.id}"}) == []


def test_row_22_a_hundred_calls_that_end_before_we_look_all_succeed(
    ledger: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an engine of their own: what they do would push other tests' events out of the memory of the shared one."""
    with killable(image, monkeypatch, live_restore=False) as engine:
        with calls.Runner(ledger) as runner:
            futures = [runner.submit(IMAGE, ["true"], network="none", sample="off") for _ in range(100)]
            assert {future.result(5 * LIMIT).state for future in futures} == {"success"}
        assert invariants(ledger) == 100
        with Reader(ledger) as reader:
            assert list(reader.query("SELECT uid FROM call WHERE gaps > 0")[1]) == []
        with engine.client() as client:
            assert client.containers(all=True) == []
