"""Ledgers for tests of reading, written by the ledger itself: known ids, known times, every kind of end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.ledger import Ledger
from machine import facts
from machine.facts import Fact
from machine.samples import Sample
from machine.states import Kind, Reason, State
from machine.table import VERDICTS, step
from machine.units import SECOND

START = 1_760_000_000 * SECOND
"""2025-10-09T08:53:20Z: when call 0 would have been submitted. Call n follows n minutes later."""
MIB = 2**20
DIGEST = "sha256:" + "d" * 64
COMMAND = (sys.executable, "-m", "calls.cli")
Said = Callable[..., tuple[int, str, str]]
OWNER = facts.Owner(runner="runner", host="host", boot="boot", pid=1, pid_started=1)
BY = facts.Requester(user="user", uid=1000, pid=2, host="host", via="cli")


def uid(number: int) -> str:
    """The id of call `number`; its end is unique, its beginning common to all."""
    return f"0199c841-9c00-7000-8000-{number:012x}"


class Call:
    """Writes one call, event by event, with a clock of its own."""

    def __init__(self, ledger: Ledger, number: int, name: str | None = None, **spec: Any) -> None:
        """Submit it. `spec` as recorded."""
        self.ledger = ledger
        self.uid = uid(number)
        self.at = self._entered = START + number * 60 * SECOND
        self.state = State.PREPARING
        asked = {"image": "busybox:1", "command": ["true"], **spec} | ({"name": name} if name else {})
        submitted = facts.Submitted(
            uid=self.uid, name=name, image=asked["image"], driver="docker", spec=asked, owner=OWNER
        )
        self.id = ledger.submit(self.uid, self.at, submitted.dump())

    def later(self, seconds: float) -> Call:
        """Let time pass."""
        self.at += round(seconds * SECOND)
        return self

    def note(self, fact: Fact) -> Call:
        """Record a fact."""
        return self._append(fact.kind, fact.dump())

    def start(self) -> Call:
        """Prepared after 0.25 s, running after another 0.25 s."""
        self.later(0.25).note(facts.Prepared(container="c" * 64, image_id=DIGEST, image_digest=DIGEST))
        return self.later(0.25).note(facts.Started(engine_at=self.at, pid=42))

    def sample(self, cpu: float, memory: int, peak: int | None = None) -> Call:
        """Record a sample: CPU seconds so far, bytes."""
        reading = Sample(cpu_total_ns=round(cpu * SECOND), mem_usage_bytes=memory, mem_peak_bytes=peak, pids=1)
        assert self.ledger.sample(self.id, self.at, reading)
        return self

    def write(self, stream: int, offset: int, data: bytes) -> Call:
        """Record output."""
        self.ledger.output(self.id, self.at, stream, offset, data)
        return self

    def verdict(self, state: State, reason: Reason, **ended: Any) -> Call:
        """Record the verdict."""
        return self._append(VERDICTS[state], facts.Ended(reason=reason, **ended).dump())

    def end(self, state: State, reason: Reason, *, removed: bool = True, **ended: Any) -> Call:
        """Record the verdict, and that the container is gone."""
        self.verdict(state, reason, **ended)
        return self.later(0.01).note(facts.Cleaned(removed=removed))

    def _append(self, kind: Kind, data: str) -> Call:
        state = step(self.state, kind)
        self.ledger.append(self.id, kind, state, self.at, self.at - self._entered, data)
        if state is not self.state:
            self.state, self._entered = state, self.at
        return self


def small(path: Path) -> None:
    """Ten calls: two named ok (the newer with 1000 samples), one of each other end, the last one live."""
    with Ledger(path) as ledger:
        _succeeded(ledger)
        _failed(ledger)
        _cut(ledger)
        _live(ledger)


def _succeeded(ledger: Ledger) -> None:
    ok = Call(ledger, 1, "ok", command=["sh", "-c", "echo out; echo err >&2"], timeout=90 * SECOND).start()
    ok.later(0.5).write(1, 0, b"out\n").later(0.1).write(2, 0, b"err\n").sample(0.25, 3 * MIB, 4 * MIB)
    ok.later(0.9).sample(0.5, 2 * MIB, 4 * MIB)
    ok.end(
        State.SUCCESS,
        Reason.EXIT,
        exit_code=0,
        cpu_ns=SECOND // 2,
        mem_peak_bytes=4 * MIB,
        evidence={"exits": {"die": 0, "inspect": 0}},
    )
    long = Call(ledger, 7, "ok").start()
    for number in range(1000):
        long.later(0.03).sample(number / 100, (number + 1) * 1024)
    long.end(State.SUCCESS, Reason.EXIT, exit_code=0, cpu_ns=10 * SECOND, mem_peak_bytes=1000 * 1024)


def _failed(ledger: Ledger) -> None:
    three = Call(ledger, 2, "three", label={"team": "a,b", "tier": "1"}).start().later(1)
    three.end(State.ERROR, Reason.EXIT, exit_code=3)
    slow = Call(ledger, 3, "slow", image="registry:5000/app:2", label={"team": "c"}).start().later(3)
    slow.note(facts.Signalled(signal="KILL", why="deadline")).later(0.125)
    slow.end(State.TIMEOUT, Reason.DEADLINE, exit_code=137)
    oom = Call(ledger, 4, "oom", memory=32 * MIB).start().later(0.5).note(facts.OomSeen(source="event"))
    oom.end(State.KILLED, Reason.OOM, exit_code=137, signal="KILL", oom="certain", mem_peak_bytes=32 * MIB)
    child = Call(ledger, 5, "child", memory=32 * MIB).start().later(0.5)
    child.end(State.SUCCESS, Reason.EXIT, exit_code=0, oom="certain")
    missing = Call(ledger, 6, image="nosuch:1").later(0.125)
    missing.end(State.ERROR, Reason.PULL_MISSING, removed=False, never_ran=True, message="no such image: nosuch:1")
    stopped = Call(ledger, 8, "stopped").note(facts.CancelRequested(by=BY, comment="not needed")).later(0.125)
    stopped.end(State.CANCELLED, Reason.USER, removed=False, never_ran=True)


def _cut(ledger: Ledger) -> None:
    cut = Call(ledger, 9, "cut").start().write(1, 0, b"one\ntwo\nth").write(2, 0, b"oops")
    cut.later(0.5).write(1, 1000, b"st\nlast\n")
    cut.note(facts.OutputCut(stream="stdout", offset=10, lost=990))
    cut.note(facts.OutputCut(stream="stderr", offset=4, lost=5)).end(State.SUCCESS, Reason.EXIT, exit_code=0)


def _live(ledger: Ledger) -> None:
    live = Call(ledger, 10, "live").start().later(1).sample(0.5, 5 * MIB).later(1).sample(1.25, 3 * MIB)
    live.note(facts.Paused())


def said(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `calls ARGUMENT...` on a ledger, in UTC; -> exit status, standard output, standard error."""
    environment = os.environ | {"TZ": "UTC", "CALLS_LEDGER": str(path)}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, env=environment, timeout=120, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()
