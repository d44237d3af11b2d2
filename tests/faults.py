"""A runner on a scripted engine, for the faults of an engine: what is asked of both, and what the ledger says then."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
from engine_box import Box
from invariants import invariants
from running import LIMIT, until
from scripted_engine import Engine

import calls
from calls.slots import CallFuture
from ledger.read import Reader
from machine.units import SECOND

WAITS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"
IGNORES = "trap '' TERM; echo up; while :; do sleep 0.02; done"


class Told(NamedTuple):
    """What the ledger says of a call."""

    verdict: tuple[str, str, int | None, str | None]
    """State, reason, exit code, signal."""
    never_ran: bool
    message: str | None
    evidence: dict[str, Any]
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What the events of one kind say."""
        return [event["data"] for event in self.events if event["kind"] == kind]

    def gaps(self, of: str) -> list[dict[str, Any]]:
        """The gaps in one thing."""
        return [gap for gap in self.of("gap") if gap["of"] == of]

    def at(self, kind: str) -> float:
        """When the first event of a kind was, in seconds since the beginning."""
        return float(next(event["t_seconds"] for event in self.events if event["kind"] == kind))

    def kinds(self) -> list[str]:
        """The kinds of its events, but gaps."""
        return [event["kind"] for event in self.events if event["kind"] != "gap"]


class World:
    """One runner, one engine, one ledger."""

    def __init__(self, engine: Engine, runner: calls.Runner, ledger: Path) -> None:
        """The runner has not asked the engine for anything yet."""
        self.engine, self.runner, self.ledger = engine, runner, ledger

    def submit(self, *command: str, **options: Any) -> CallFuture:
        """Begin a call."""
        return self.runner.submit("busybox", command, **{"network": "none", **options})

    def script(self, script: str, **options: Any) -> CallFuture:
        """Begin a call of a shell script; returns when it has written something, and that it started is recorded."""
        first = threading.Event()
        future = self.submit("sh", "-c", script, output=lambda *_: first.set(), **options)
        until(lambda: first.is_set() or future.done(), "its first line")
        until(lambda: "started" in self.kinds(future) or future.done(), "its start")
        return future

    def kinds(self, future: CallFuture) -> list[str]:
        """The kinds of the events that are recorded by now."""
        query = (
            "SELECT kind.name FROM event JOIN call ON call.id = call_id JOIN kind ON code = kind "
            "WHERE uid = :uid ORDER BY seq"
        )
        with Reader(self.ledger) as reader:
            return [name for (name,) in reader.query(query, {"uid": future.id})[1]]

    def until(self, future: CallFuture, kind: str) -> None:
        """Wait for an event."""
        until(lambda: kind in self.kinds(future), kind)

    def box(self, future: CallFuture) -> Box:
        """The call's container."""
        return self.engine.box(future.id)

    def client(self) -> docker.APIClient:
        """Somebody else."""
        return docker.APIClient(self.engine.url, version="1.41")

    def end(self, future: CallFuture) -> Told:
        """Wait for its end; -> what the ledger says. What is promised of every ledger holds."""
        future.result(LIMIT)
        return self.told(future)

    def told(self, future: CallFuture) -> Told:
        """What the ledger says."""
        with Reader(self.ledger) as reader:
            shown = reader.show(future.id)
            events = reader.events(reader.resolve(future.id))
        verdict = shown["state"], shown["reason"], shown["exit_code"], shown["signal"]
        return Told(verdict, shown["never_ran"], shown["message"], shown["evidence"], events)

    def run(self, *command: str, **options: Any) -> Told:
        """A call to its end."""
        return self.end(self.submit(*command, **options))

    def query(self, sql: str) -> list[Any]:
        """Rows."""
        with Reader(self.ledger) as reader:
            return list(reader.query(sql)[1])

    def output(self, future: CallFuture) -> bytes:
        """What was recorded of its standard output."""
        with Reader(self.ledger) as reader:
            return b"".join(one.data for one in reader.output(reader.resolve(future.id)) if one.stream == 1)


@contextmanager
def world(ledger: Path, *, left: int = 0, live_restore: bool = False, **options: Any) -> Iterator[World]:
    """A world, and afterwards: every invariant, `left` containers, and not one thread more than before."""
    threads = set(threading.enumerate())
    with Engine(live_restore=live_restore) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        with calls.Runner(ledger, **options) as runner:
            yield World(engine, runner, ledger)
            runner.cancel_all()  # of a test that failed; else nobody is left
        assert invariants(ledger)
        assert len(engine.boxes) == left, [box.name for box in engine.boxes.values()]
        until(lambda: len(set(threading.enumerate()) - threads) == 1, "the end of all threads but the engine's")


class SteppingClock:
    """The machine's clocks, but the wall clock can be set. See `calls.clock.Clock`."""

    def __init__(self, inner: Any) -> None:
        """`inner` is the true one."""
        self._inner = inner
        self.ahead = 0.0

    def wall(self) -> int:
        """See `Clock`."""
        return int(self._inner.wall() + round(self.ahead * SECOND))

    def monotonic(self) -> int:
        """See `Clock`."""
        return int(self._inner.monotonic())

    def get(self, items: Any, timeout_ns: int | None) -> Any:
        """See `Clock`."""
        return self._inner.get(items, timeout_ns)


def document(value: Any) -> bytes:
    """A line of JSON."""
    return json.dumps(value).encode() + b"\n"
