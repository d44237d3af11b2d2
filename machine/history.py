"""What the log of a call says to whoever takes the call over: the same knowledge that its runner had.

Pure: events in, knowledge out. What a runner knows and does not write down (the monotonic clock, secrets, output not
yet flushed) is not here, and nothing here is a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from machine.facts import Ended
from machine.spec import Spec
from machine.states import Kind, Reason, State
from machine.table import VERDICTS
from machine.verdict import Evidence, Verdict, Why

_ANSWERS = {"cancel": Kind.CANCEL_REQUESTED, "kill": Kind.KILL_REQUESTED}
"""Which request is answered by a signal, by why the signal was sent."""


class Past(NamedTuple):
    """One event of the log. `at` in ns, `data` decoded."""

    seq: int
    at: int
    kind: Kind
    state: State
    data: dict[str, Any]


class Signal(NamedTuple):
    """The last signal of ours that was delivered, or may have been."""

    at: int
    name: str
    why: Why


class History:
    """The knowledge. Times in ns, UTC; None for what was not recorded."""

    def __init__(self, events: Iterable[Past]) -> None:
        """`events` of one call, all of them, in order."""
        self.uid = ""
        self.spec = Spec()
        self.state = State.PREPARING
        self.owner: dict[str, Any] = {}
        self.since = 0
        self.prepared: dict[str, Any] = {}
        self.started: dict[str, Any] | None = None
        self.awaiting_health_since: int | None = None
        self.health_limit: int | None = None
        self.last_signal: Signal | None = None
        self.verdict: Verdict | None = None
        self.evidence = Evidence()
        self.seq = 0
        self.pending: dict[int, Kind] = {}
        for event in events:
            self._take(event)

    @property
    def deadline(self) -> int | None:
        """When the call's time is over: as it was written down at the start, whoever conducts it now."""
        return (self.started or {}).get("deadline")

    @property
    def obeyed(self) -> int:
        """The seq up to which every request was acted on."""
        return min(self.pending, default=self.seq + 1) - 1

    def _take(self, event: Past) -> None:
        self.state, self.since, self.seq = event.state, event.at, event.seq
        data = event.data
        match event.kind:
            case Kind.SUBMITTED:
                self.uid, self.spec, self.owner = data["uid"], Spec.recorded(data["spec"]), data["owner"]
            case Kind.ADOPTED:
                self.owner = data["owner"]
            case Kind.PREPARED:
                self.prepared = data
            case Kind.STARTED:
                self.started = data
                self.evidence.started_at = data.get("engine_at")
            case Kind.HEALTH_AWAITED:
                self.awaiting_health_since, self.health_limit = event.at, data["limit"]
            case Kind.HEALTHY:
                self.awaiting_health_since = None
            case Kind.OOM_SEEN:
                self.evidence.oom.add(data["source"])
            case _ if event.kind is VERDICTS.get(event.state):
                ended = Ended(**{**data, "reason": Reason(data["reason"])})
                self.verdict = Verdict(event.state, ended)
            case _:
                self._take_request(event)

    def _take_request(self, event: Past) -> None:
        data = event.data
        if event.kind in _ANSWERS.values():
            self.pending[event.seq] = event.kind
        elif event.kind is Kind.SIGNALLED:
            answered = _ANSWERS.get(data["why"])
            self.pending = {seq: kind for seq, kind in self.pending.items() if kind is not answered}
            if not data.get("error"):
                self.last_signal = Signal(event.at, data["signal"], data["why"])
                self.evidence.stop, self.evidence.stop_signal = data["why"], data["signal"]
