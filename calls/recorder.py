"""One call's pen: every fact goes through the table and into the ledger, in that order, before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from calls.clock import Clock
from machine.facts import Ended, Fact, Gap, HealthChanged, Submitted, dump
from machine.lifecycle import Lifecycle
from machine.samples import Sample
from machine.secrets import Redactor
from machine.states import Kind, State
from machine.table import VERDICTS
from machine.units import SECOND
from machine.verdict import Verdict

PROBE = 1024
"""How much of what a health check wrote is recorded, characters: its end."""
CLOCK_STEP = SECOND
"""How far the two clocks may drift apart between two events before it is said that one was set."""

_FREE_TEXT = frozenset(
    ("name", "image", "message", "error", "output", "comment", "warnings", "why", "fallback", "evidence", "network")
)
"""The fields in which a secret could turn up; the others are of this program's own making."""


class Log(Protocol):
    """Where it is written down: a `ledger.ledger.Ledger`, or what stands for one."""

    def submit(self, uid: str, at: int, data: str) -> int:
        """See `Ledger`."""

    def append(self, call_id: int, kind: Kind, state: State | None, at: int, elapsed_ns: int | None, data: str) -> None:
        """See `Ledger`."""

    def sample(self, call_id: int, at: int, sample: Sample) -> bool:
        """See `Ledger`."""

    def output(self, call_id: int, at: int, stream: int, offset: int, data: bytes) -> None:
        """See `Ledger`."""

    def dropped(self, call_id: int) -> int:
        """See `Ledger`."""

    def lost_output(self, call_id: int) -> int:
        """See `Ledger`."""

    def forget(self, call_id: int) -> None:
        """See `Ledger`."""


class Recorder:
    """Used by the one thread that conducts the call; only `sample` and `output` may come from others."""

    def __init__(
        self, ledger: Log, clock: Clock, redactor: Redactor, call_id: int = 0, state: State | None = None
    ) -> None:
        """A call that does not exist yet: `apply(Submitted)` comes first; or one that was adopted in `state`."""
        self._ledger = ledger
        self._clock = clock
        self.redactor = redactor
        self._lifecycle = Lifecycle(self._write, state)
        self._entered: int | None = None  # unknown: another process saw the beginning
        self._lead: int | None = None  # of the wall clock over the monotonic one, when last read
        self.call_id = call_id

    @property
    def state(self) -> State:
        """Where the call is, as far as it is durable."""
        return State(self._lifecycle.state)

    def apply(self, fact: Fact) -> State:
        """Record `fact`; durable on return. IllegalTransitionError or LedgerError, and nothing has moved."""
        return self._lifecycle.apply(fact.kind, fact)

    def post(self, submitted: Submitted, post: Callable[[str, int, str], Future[int]]) -> Future[int]:
        """As `apply`, without waiting, by `Ledger.post_submitted`. What comes of it goes to `begin`."""
        now, at = self._clock.monotonic(), self._clock.wall()
        self._lead, self._entered = at - now, now
        return post(submitted.uid, at, self.dump(submitted))

    def begin(self, call_id: int) -> None:
        """The call is recorded."""
        self.call_id = call_id
        self._lifecycle = Lifecycle(self._write, State.PREPARING)

    def end(self, verdict: Verdict) -> State:
        """Record the verdict: the terminal event."""
        return self._lifecycle.apply(VERDICTS[verdict.state], verdict.ended)

    def sample(self, at: int, sample: Sample) -> bool:
        """Record a sample; False when it had to be dropped."""
        return self._ledger.sample(self.call_id, at, sample)

    def output(self, at: int, stream: int, offset: int, data: bytes) -> None:
        """Record a piece of output."""
        self._ledger.output(self.call_id, at, stream, offset, data)

    def dropped(self) -> int:
        """How many samples were dropped."""
        return self._ledger.dropped(self.call_id)

    def lost_output(self) -> int:
        """How many bytes of output could not be written."""
        return self._ledger.lost_output(self.call_id)

    def close(self) -> None:
        """Nothing more will be recorded."""
        self._ledger.forget(self.call_id)

    def dump(self, fact: Fact | Ended) -> str:
        """What the ledger gets of `fact`: no secret is in it. Called from any thread."""
        free = _FREE_TEXT
        if isinstance(fact, HealthChanged) and fact.output:  # cut when its secrets are gone, not through one
            fact, free = fact.replace(output=self.redactor.cut_short(fact.output).strip()[-PROBE:] or None), frozenset()
        if not self.redactor.reach:
            return fact.dump()
        record = fact.record().items()
        return dump({name: self.redactor.data(value) if name in free else value for name, value in record})

    def _write(self, kind: Kind, state: State, fact: Fact | Ended) -> None:
        now, at, data = self._clock.monotonic(), self._clock.wall(), self.dump(fact)
        if isinstance(fact, Submitted):
            self._lead = at - now
            self.call_id = self._ledger.submit(fact.uid, at, data)
            self._entered = now
            return
        elapsed = None if self._entered is None else now - self._entered
        self._note_step(at, now, elapsed)
        self._ledger.append(self.call_id, kind, state, at, elapsed, data)
        if state != self._lifecycle.state:
            self._entered = now

    def _note_step(self, at: int, now: int, elapsed: int | None) -> None:
        """Record that the wall clock was set: what it said before does not compare with what it says now."""
        before, self._lead = self._lead, at - now
        if before is not None and abs(step := self._lead - before) > CLOCK_STEP:
            why = f"the wall clock was set {'ahead' if step > 0 else 'back'} by {abs(step) / SECOND:.1f} s"
            gap = Gap(of="clock", since=min(at, at - step), until=max(at, at - step), why=why)
            self._ledger.append(self.call_id, gap.kind, self.state, at, elapsed, gap.dump())
