"""Calls conducted in processes that fail at a given point: see `ledger.failpoint`.

As a program it waits for orders, a line of JSON each, and forks for each of them: what is imported once is imported
for all. In the forked child one call is conducted on a script; what is durable and what is done is said line by line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from conducting import Stage
from ledgers import OWNER

from driver.protocol import Froze, OomKilled, Thawed
from driver.scripted import exits, happens, writes
from ledger import failpoint, writer
from ledger.ledger import Ledger
from machine.facts import Owner
from machine.samples import Sample
from machine.states import Kind, State

OTHER = Owner(runner="other", host="host", boot="boot", pid=3, pid_started=3)
SAMPLES = [Sample(pids=number, mem_usage_bytes=1024) for number in range(4)]
STEPS = (
    writes(b"one\n"),
    happens(Froze, after=1.25),
    happens(Thawed, after=1.5),
    happens(OomKilled, "event", after=2),
    writes(b"two\n", 2, after=2.25),
    exits(3, after=3),
)


class Outcome(NamedTuple):
    """How a child ended (negative: by that signal), what it said, line by line, and the failpoints that it passed."""

    status: int
    said: list[str]
    passed: list[str]

    def durable(self) -> list[str]:
        """The kinds of the events that were said to be durable, in order."""
        return [line.removeprefix("durable ") for line in self.said if line.startswith("durable ")]


class Failing:
    """A process that conducts calls in children of its own. A context manager."""

    def __enter__(self) -> Self:
        """Start it."""
        words = [sys.executable, __file__]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it end."""
        self._process.communicate()

    def play(self, scene: str, path: Path, *points: str) -> Outcome:
        """Play a function of this module on a ledger with failpoints armed (`NAME:ACTION:N`)."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([scene, str(path), points]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))


class Telling(Ledger):
    """A ledger that says what is durable."""

    def submit(self, uid: str, at: int, data: str, **more: Any) -> int:
        call_id = super().submit(uid, at, data, **more)
        say("durable submitted")
        return call_id

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        super().append(call_id, kind, state, at, elapsed_ns, data)
        say(f"durable {kind}")


def conducts(path: Path) -> None:
    """One call that fails, with samples, output and notes."""
    with Stage(path, *STEPS, samples=SAMPLES) as stage:
        stage.ledger.close()
        stage.ledger = Telling(path, owner=OWNER)  # type: ignore[assignment]
        try:
            stage.conduct()
        finally:
            for action in stage.actions:
                say(f"did {action}")
    say(f"unwritten {bool(stage.ledger.unwritten)}")


def catches_up(path: Path) -> None:
    """As `conducts`, on a ledger that is full from the start on and can be written again soon."""
    writer.RETRY = 0.0
    failpoint._ARMED.append(("started.begun", ":", "enospc"))
    conducts(path)


def spools(path: Path) -> None:
    """As `conducts`, on a ledger that is full from the start of the call on."""
    failpoint._ARMED.append(("catch-up.written", ":", "enospc"))
    catches_up(path)


def takes_in(path: Path) -> None:
    """The next start."""
    Ledger(path, owner=OTHER).close()


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _perform(scene: Callable[[Path], None], path: Path, points: list[str], saying: int) -> None:
    def sleep(_: float) -> None:
        say("asleep")
        signal.pause()

    os.dup2(saying, 1)
    failpoint._ARMED[:] = [("trace", ":", f"{path}.trace"), *(point.partition(":") for point in points)]
    failpoint.time = type("", (), {"sleep": staticmethod(sleep)})  # type: ignore[assignment]
    try:
        scene(path)
    except Exception as error:  # noqa: BLE001 - told
        say(f"error {type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def _direct(scene: str, path: str, points: list[str]) -> Outcome:
    hearing, saying = os.pipe()
    child = os.fork()
    if child == 0:
        _perform(globals()[scene], Path(path), points, saying)
    os.close(saying)
    said: list[str] = []
    with os.fdopen(hearing) as pipe:
        for line in pipe:
            said.append(line.removesuffix("\n"))
            if line == "asleep\n":
                time.sleep(0.01)  # what the other threads can do without the one that writes, they do now
                os.kill(child, signal.SIGKILL)
    passed: list[str] = []
    with suppress(FileNotFoundError):
        passed = Path(f"{path}.trace").read_text(encoding="utf-8").split()
    return Outcome(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said, passed)


if __name__ == "__main__":
    for order in sys.stdin:
        print(json.dumps(_direct(*json.loads(order))), flush=True)  # noqa: T201
