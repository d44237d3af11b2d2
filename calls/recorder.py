"""One call's pen: every fact goes through the table and into the ledger, in that order, before it is believed."""

from __future__ import annotations

from calls.clock import Clock
from ledger.ledger import Ledger
from machine.facts import Ended, Fact, Submitted, dump
from machine.lifecycle import Lifecycle
from machine.samples import Sample
from machine.secrets import Redactor
from machine.states import Kind, State
from machine.table import VERDICTS
from machine.verdict import Verdict

_FREE_TEXT = frozenset(
    ("name", "image", "message", "error", "output", "comment", "warnings", "why", "fallback", "evidence")
)
"""The fields in which a secret could turn up; the others are of this program's own making."""


class Recorder:
    """Used by the one thread that conducts the call; only `sample` and `output` may come from others."""

    def __init__(
        self, ledger: Ledger, clock: Clock, redactor: Redactor, call_id: int = 0, state: State | None = None
    ) -> None:
        """A call that does not exist yet: `apply(Submitted)` comes first; or one that was adopted in `state`."""
        self._ledger = ledger
        self._clock = clock
        self.redactor = redactor
        self._lifecycle = Lifecycle(self._write, state)
        self._entered: int | None = None  # unknown: another process saw the beginning
        self.call_id = call_id

    @property
    def state(self) -> State:
        """Where the call is, as far as it is durable."""
        return State(self._lifecycle.state)

    def apply(self, fact: Fact) -> State:
        """Record `fact`; durable on return. IllegalTransitionError or LedgerError, and nothing has moved."""
        return self._lifecycle.apply(fact.kind, fact)

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

    def _write(self, kind: Kind, state: State, fact: Fact | Ended) -> None:
        now, data = self._clock.monotonic(), self._dump(fact)
        if isinstance(fact, Submitted):
            self.call_id = self._ledger.submit(fact.uid, self._clock.wall(), data)
            self._entered = now
            return
        elapsed = None if self._entered is None else now - self._entered
        self._ledger.append(self.call_id, kind, state, self._clock.wall(), elapsed, data)
        if state != self._lifecycle.state:
            self._entered = now

    def _dump(self, fact: Fact | Ended) -> str:
        if not self.redactor.reach:
            return fact.dump()
        record = fact.record().items()
        return dump({name: self.redactor.data(value) if name in _FREE_TEXT else value for name, value in record})
